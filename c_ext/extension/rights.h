/*
 * extension/rights.h - who may use the functions.
 */
#ifndef TDE_EXTENSION_RIGHTS_H
#define TDE_EXTENSION_RIGHTS_H

#define TDE_EXTENSION_ROLE "tde_admin"

/* ERROR unless the current user is a superuser, or has the rights of the role. */
void tde_extension_require_rights(void);

#endif
