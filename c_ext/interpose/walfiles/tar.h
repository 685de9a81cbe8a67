/*
 * walfiles/tar.h - writing pg_wal.tar: the WAL in its members is encrypted, everything else is not.
 *
 * A member that is a WAL segment gets the bytes that the segment's own file would have, so
 * what stock tar extracts is a segment as in pg_wal.
 */
#ifndef TDE_INTERPOSE_WALFILES_TAR_H
#define TDE_INTERPOSE_WALFILES_TAR_H

#include <sys/types.h>
#include <sys/uio.h>

/* As pwritev and ftruncate, for a descriptor whose entry in the table of files is a tar file. */
ssize_t tde_walfiles_tar_pwritev(int fd, const struct iovec *iov, int count, off_t offset);
int tde_walfiles_tar_truncate(int fd, off_t length);

/* Says why a write is refused; -1 with EOPNOTSUPP. */
int tde_walfiles_tar_refuse(int fd, const char *problem);

#endif
