/*
 * walfiles/tar_gzip.h - writing pg_wal.tar.gz: the WAL in it is encrypted before zlib gets it.
 *
 * pg_basebackup gives zlib each header with Z_FINISH, by itself, and the members in between; it
 * writes what comes out of zlib.  So the input of deflate is replaced, and nothing but its
 * output may reach the file.
 */
#ifndef TDE_INTERPOSE_WALFILES_TAR_GZIP_H
#define TDE_INTERPOSE_WALFILES_TAR_GZIP_H

#include <sys/types.h>

#include "interpose/files/table.h"

/* FD was opened to write FILE, a compressed tar file, from its start. */
void tde_walfiles_tar_gzip_start(int fd, const struct tde_file *file);

/* As write, for bytes that zlib has just put out. */
ssize_t tde_walfiles_tar_gzip_write(int fd, const void *from, size_t length);

#endif
