/*
 * libc/transfer.h - whole transfers of stored bytes: short counts and EINTR handled.
 */
#ifndef TDE_INTERPOSE_LIBC_TRANSFER_H
#define TDE_INTERPOSE_LIBC_TRANSFER_H

#include <limits.h>
#include <stddef.h>
#include <sys/types.h>

/* Read until LENGTH bytes, the end of the file or an error; the bytes read, or -1. */
ssize_t tde_libc_read_fully(int fd, void *to, size_t length, off_t offset);

/* Write until everything is written or an error; the bytes written, with errno if short. */
size_t tde_libc_write_fully(int fd, const void *from, size_t length, off_t offset);

/* The length of the file, or -1 with errno. */
off_t tde_libc_file_size(int fd);

/*
 * Where the file of a descriptor, or the working directory for AT_FDCWD, is; the length of PATH,
 * or 0 with an empty one when that cannot be told.
 */
size_t tde_libc_descriptor_path(int fd, char path[PATH_MAX]);

#endif
