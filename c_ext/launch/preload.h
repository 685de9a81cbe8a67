/*
 * launch/preload.h - our own entry in LD_PRELOAD.  Pure.
 */
#ifndef TDE_LAUNCH_PRELOAD_H
#define TDE_LAUNCH_PRELOAD_H

#define TDE_INTERPOSER "libtde_io.so"

/*
 * LIST without our library, in memory that the caller frees; colons and spaces separate its
 * entries, and others that the operator wants in every program stay.  Empty for a NULL list,
 * NULL when memory is short.
 */
char *tde_launch_other_preloads(const char *list);

#endif
