/*
 * blocks/range.h - reading and writing byte ranges of encrypted files, and changing their length:
 * what blocks/read.c, blocks/write.c and blocks/shape.c do.
 *
 * The calls have the meaning and the errors of pread, pwrite and ftruncate on a plain
 * file.  What is stored is position- and length-preserving: block N of the plaintext is
 * block N of the file.
 */
#ifndef TDE_INTERPOSE_BLOCKS_RANGE_H
#define TDE_INTERPOSE_BLOCKS_RANGE_H

#include <sys/types.h>
#include <sys/uio.h>

#include "interpose/files/table.h"

ssize_t tde_blocks_pread(const struct tde_file *file, int fd, void *to, size_t length,
                         off_t offset);
ssize_t tde_blocks_preadv(const struct tde_file *file, int fd, const struct iovec *iov,
                          int count, off_t offset);
ssize_t tde_blocks_pwritev(struct tde_file *file, int fd, const struct iovec *iov,
                           int count, off_t offset);

/*
 * Prepare a change of length from the present one to LENGTH, before the caller makes it
 * with ftruncate or posix_fallocate: the last unit of the file may need new ciphertext.
 * 0, or -1 with errno.
 */
int tde_blocks_resize(const struct tde_file *file, int fd, off_t length);

/* As ftruncate; a file that could not be cut or made longer reads as before. */
int tde_blocks_truncate(const struct tde_file *file, int fd, off_t length);

/*
 * Encode the whole file again under another identity, or as plaintext when TO is NULL,
 * and make it durable.  0, or -1 with errno.
 */
int tde_blocks_recode(const struct tde_file *from, const struct tde_file *to, int fd);

#endif
