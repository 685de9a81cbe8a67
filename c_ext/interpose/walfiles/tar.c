/*
 * walfiles/tar.c - from writes to pg_wal.tar to writes of headers and of segments' blocks.
 */
#include "interpose/walfiles/tar.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

#include "format/tar.h"
#include "interpose/blocks/range.h"
#include "interpose/blocks/vector.h"
#include "interpose/files/reach.h"
#include "interpose/files/table.h"
#include "interpose/libc/report.h"
#include "interpose/libc/symbols.h"
#include "interpose/libc/transfer.h"

/* Nothing is written that is not understood: it might be WAL. */
int tde_walfiles_tar_refuse(int fd, const char *problem)
{
    char path[PATH_MAX];
    bool found = tde_libc_descriptor_path(fd, path) > 0;

    tde_libc_report("refused to write %s: %s, so WAL in it might not be encrypted; "
                    "HINT: use --format=plain or --wal-method=fetch",
                    found ? path : "pg_wal.tar", problem);
    errno = EOPNOTSUPP;
    return -1;
}

/* Bytes that are stored as they are.  Returns how many were written, or -1. */
static ssize_t write_plain(int fd, const uint8_t *from, size_t length, off_t offset)
{
    size_t written = tde_libc_write_fully(fd, from, length, offset);

    return written > 0 ? (ssize_t)written : -1;
}

/*
 * The state moves on only when the whole header is stored.  Part of a new one is taken away
 * again: the next header belongs where this one was to begin.
 */
static ssize_t write_header(struct tde_file *file, int fd, const uint8_t *block, off_t offset,
                            off_t size)
{
    struct tde_tar next = file->tar;
    const char *problem = next.open ? tde_format_tar_complete(&next, (uint64_t)size, block)
                                    : tde_format_tar_begin(&next, (uint64_t)offset, block);

    if (problem != NULL)
        return tde_walfiles_tar_refuse(fd, problem);
    if (tde_libc_write_fully(fd, block, TDE_TAR_BLOCK, offset) != TDE_TAR_BLOCK) {
        int saved = errno;

        if (offset == size && tde_libc()->ftruncate(fd, size) != 0) {
            /* The next write is refused, because it is not at the end of the file. */
        }
        errno = saved;
        return -1;
    }
    file->tar = next;
    file->id = next.member.id;
    file->base = (off_t)(next.header + TDE_TAR_BLOCK);
    return (ssize_t)TDE_TAR_BLOCK;
}

/* Write what belongs to one place.  As pwrite. */
static ssize_t write_place(struct tde_file *file, int fd, const uint8_t *from, size_t length,
                           off_t offset)
{
    struct iovec iov = {(void *)(uintptr_t)from, length};
    enum tde_tar_place place;
    off_t size = tde_libc_file_size(fd);

    if (size < 0)
        return -1;
    iov.iov_len = tde_format_tar_locate(&file->tar, (uint64_t)offset, (uint64_t)size, length,
                                        &place);
    switch (place) {
    case TDE_TAR_AT_HEADER:
        return write_header(file, fd, from, offset, size);
    case TDE_TAR_IN_SEGMENT:
        return tde_blocks_pwritev(file, fd, &iov, 1, offset - file->base);
    case TDE_TAR_IN_PLAIN:
        return write_plain(fd, from, iov.iov_len, offset);
    case TDE_TAR_NOWHERE:
    default:
        return tde_walfiles_tar_refuse(fd, "it is not written as pg_basebackup writes it");
    }
}

static ssize_t write_at(struct tde_file *file, int fd, const uint8_t *from, size_t length,
                        off_t offset)
{
    size_t done = 0;

    while (done < length) {
        ssize_t n = write_place(file, fd, from + done, length - done, offset + (off_t)done);

        if (n <= 0)
            return done > 0 ? (ssize_t)done : n;
        done += (size_t)n;
    }
    return (ssize_t)done;
}

ssize_t tde_walfiles_tar_pwritev(int fd, const struct iovec *iov, int count, off_t offset)
{
    struct tde_file *file = tde_files_find(fd);
    ssize_t total = tde_blocks_vector_length(iov, count);
    ssize_t done = 0;

    if (total < 0)
        return -1;
    if (offset < 0 || total == 0)
        return tde_libc()->pwritev(fd, iov, count, offset);
    for (int i = 0; i < count; i++) {
        ssize_t n = write_at(file, fd, iov[i].iov_base, iov[i].iov_len, offset + done);

        if (n < 0)
            return done > 0 ? done : -1;
        done += n;
        if ((size_t)n < iov[i].iov_len)
            break;
    }
    return done;
}

int tde_walfiles_tar_truncate(int fd, off_t length)
{
    struct tde_file *file = tde_files_find(fd);
    struct tde_tar next = file->tar;

    if (tde_format_tar_cut(&next, (uint64_t)length) != 0)
        return tde_walfiles_tar_refuse(fd, "it is cut in the middle");
    if (tde_libc()->ftruncate(fd, length) != 0)
        return -1;
    tde_files_reach_count_cut();
    file->tar = next;
    return 0;
}
