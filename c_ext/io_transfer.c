/*
 * io_transfer.c - loops around the C library's pread and pwrite.
 */
#include "io_transfer.h"

#include <errno.h>
#include <stdint.h>
#include <sys/stat.h>

#include "io_symbols.h"

ssize_t tde_read_fully(int fd, void *to, size_t length, off_t offset)
{
    size_t done = 0;

    while (done < length) {
        ssize_t n = tde_libc()->pread(fd, (uint8_t *)to + done, length - done,
                                     offset + (off_t)done);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        if (n == 0)
            break;
        done += (size_t)n;
    }
    return (ssize_t)done;
}

size_t tde_write_fully(int fd, const void *from, size_t length, off_t offset)
{
    size_t done = 0;

    while (done < length) {
        ssize_t n = tde_libc()->pwrite(fd, (const uint8_t *)from + done, length - done,
                                      offset + (off_t)done);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            break;
        if (n == 0) {
            errno = ENOSPC; /* What PostgreSQL assumes of a write that writes nothing. */
            break;
        }
        done += (size_t)n;
    }
    return done;
}

off_t tde_file_size(int fd)
{
    struct stat status;

    return fstat(fd, &status) == 0 ? status.st_size : -1;
}
