/*
 * control/control.c - the state in pg_control, translated on its way from and to the disk.
 *
 * PostgreSQL reads the front of the file with one read and writes all of it, 8 KiB, with one
 * write.  Both stay one call of the kernel: what a power cut or a concurrent reader sees of the
 * first sector is what it would be without tde.
 */
#include "interpose/control/control.h"

#include <string.h>

#include "crypto/sizes.h"
#include "format/control.h"
#include "interpose/libc/symbols.h"
#include "interpose/libc/transfer.h"

bool tde_control_is_path(const char *path)
{
    static const char name[] = "global/pg_control";
    size_t length = strlen(path);

    if (length < sizeof name - 1 || strcmp(path + length - (sizeof name - 1), name) != 0)
        return false;
    return length == sizeof name - 1 || path[length - sizeof name] == '/';
}

ssize_t tde_control_pread(int fd, void *to, size_t length, off_t offset)
{
    uint8_t sector[TDE_CONTROL_SECTOR];
    ssize_t got = tde_libc()->pread(fd, to, length, offset);
    size_t known;

    if (got <= 0 || offset != 0)
        return got;
    /*
     * What the caller has is kept, so that bytes of two moments are never mixed; the rest of
     * the sector is needed only when the caller has asked for the front of it.
     */
    known = (size_t)got < sizeof sector ? (size_t)got : sizeof sector;
    if (known < sizeof sector &&
        tde_libc_read_fully(fd, sector, sizeof sector, 0) != (ssize_t)sizeof sector)
        return got;
    memcpy(sector, to, known);
    if (tde_format_control_show(sector))
        memcpy(to, sector, known);
    return got;
}

ssize_t tde_control_pwritev(int fd, const struct iovec *iov, int count, off_t offset)
{
    uint8_t file[TDE_BLOCK_SIZE]; /* PG_CONTROL_FILE_SIZE */

    if (offset != 0 || count != 1 || iov->iov_len < TDE_CONTROL_SECTOR ||
        iov->iov_len > sizeof file)
        return tde_libc()->pwritev(fd, iov, count, offset);
    memcpy(file, iov->iov_base, iov->iov_len);
    tde_format_control_hide(file);
    return tde_libc()->pwrite(fd, file, iov->iov_len, offset);
}
