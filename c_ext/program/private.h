/*
 * program/private.h - files of a keystore, which nobody but the server's user and root may read.
 */
#ifndef TDE_PROGRAM_PRIVATE_H
#define TDE_PROGRAM_PRIVATE_H

#include <stddef.h>
#include <sys/types.h>

/*
 * Read up to SIZE bytes of a file in a keystore, after a look at who may read it and its directory,
 * by the rules of tde/keystore/store/files.py.
 *
 * How many bytes it has, which may be more than SIZE; or -1 with errno.  Where others have access,
 * *PROBLEM is a sentence about *CULPRIT, which is PATH or its directory; else it is NULL.
 */
ssize_t tde_program_read_private(const char *path, void *to, size_t size, const char **culprit,
                                 const char **problem);

#endif
