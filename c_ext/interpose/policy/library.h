/*
 * policy/library.h - the libcrypto that encrypts what this program writes.
 */
#ifndef TDE_INTERPOSE_POLICY_LIBRARY_H
#define TDE_INTERPOSE_POLICY_LIBRARY_H

/* "system" for the one that is linked, or the path of another one. */
#define TDE_LIBCRYPTO_VARIABLE "TDE_LIBCRYPTO"
/* What tde puts beside the interposer where a second library gains something. */
#define TDE_LIBCRYPTO_NAME "libcrypto-for-pages.so.3"

/* Choose it, before the first cipher is made.  A library that does not serve is reported. */
void tde_policy_library_choose(void);

#endif
