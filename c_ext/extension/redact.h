/*
 * extension/redact.h - statements with a passphrase, and what becomes of their text.
 */
#ifndef TDE_EXTENSION_REDACT_H
#define TDE_EXTENSION_REDACT_H

/* Set the hooks, which only a library of shared_preload_libraries can do in time. */
void tde_extension_redact_install(void);

/*
 * Called by the function NAME, which takes a passphrase, before anything else.  ERROR unless the
 * statement was seen from its first byte on, so that nobody has logged or kept its text.
 */
void tde_extension_redact_require(const char *name);

#endif
