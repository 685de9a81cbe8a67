/*
 * libc/privacy.h - keep other programs of the same user out of this process's memory.
 */
#ifndef TDE_INTERPOSE_LIBC_PRIVACY_H
#define TDE_INTERPOSE_LIBC_PRIVACY_H

/* Close this process to all but root with CAP_SYS_PTRACE; forbids core dumps.  0, or -1. */
int tde_libc_privacy_begin(void);

/* In a postmaster, before privacy begins: keep PostgreSQL's PG_OOM_ADJUST_FILE working. */
void tde_libc_privacy_keep_oom_adjustment(void);

#endif
