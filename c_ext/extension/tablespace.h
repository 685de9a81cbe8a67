/*
 * extension/tablespace.h - CREATE TABLESPACE ... WITH (tablespace_encryption_algorithm = ...).
 */
#ifndef TDE_EXTENSION_TABLESPACE_H
#define TDE_EXTENSION_TABLESPACE_H

void tde_extension_tablespace_install(void);

#endif
