/*
 * policy/open.h - from a path that a program opens to an entry in the table of files.
 */
#ifndef TDE_INTERPOSE_POLICY_OPEN_H
#define TDE_INTERPOSE_POLICY_OPEN_H

#include <stdbool.h>
#include <sys/types.h>

#include "interpose/files/table.h"

/*
 * Classify PATH (relative to DIRFD, as in openat) and find its key.  Returns 0 with
 * FILE->encrypted telling whether I/O goes through the cipher, or -1 with errno.
 */
int tde_policy_describe(int dirfd, const char *path, int flags, struct tde_file *file);

/*
 * In a server: whether a file of its own, with bytes that are not encrypted, may get this name.  0,
 * or -1 with errno, after a report when it may not.
 */
int tde_policy_may_have_name(int dirfd, const char *path);

/* openat with encryption; MODE counts only where FLAGS create a file. */
int tde_policy_open_at(int dirfd, const char *path, int flags, mode_t mode);

#endif
