/*
 * files/table.h - the table of open files that are encrypted, by descriptor.
 */
#ifndef TDE_INTERPOSE_FILES_TABLE_H
#define TDE_INTERPOSE_FILES_TABLE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "format/identity.h"
#include "format/tar.h"
#include "interpose/keys/ring.h"

/* What every read and write looks at is in the first cache line of an entry. */
#define TDE_CACHE_LINE 64

struct tde_file {
    _Alignas(TDE_CACHE_LINE) bool encrypted;
    bool write_only; /* opened O_WRONLY by the caller, O_RDWR by us */
    bool append;     /* opened O_APPEND by the caller, which we do not pass on */
    bool is_tar;     /* pg_wal.tar: only written, and the identity is that of its open member */
    bool compressed; /* by the program itself: a segment (walfiles/compress.h) or a tar file */
    bool control;    /* pg_control: not encrypted, but its state is (control/control.h) */
    tde_key_index key;
    struct tde_identity id;
    off_t base; /* where the first byte of what has this identity is; 0 except in a tar file */
    _Atomic uint64_t reach; /* how long the file is known to be; files/reach.h */
    struct tde_tar tar; /* where the writer of a tar file is */
};

/* The encrypted file behind a descriptor, or NULL when there is none. */
struct tde_file *tde_files_find(int fd);

/* Remember FILE under descriptor FD; 0, or an errno when the table cannot hold it. */
int tde_files_set(int fd, const struct tde_file *file);

void tde_files_clear(int fd);
void tde_files_clear_range(unsigned int first, unsigned int last);

/* After dup: the new descriptor stands for the same file as the old.  0 or an errno. */
int tde_files_copy(int from, int to);

#endif
