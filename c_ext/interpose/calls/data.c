/*
 * calls/data.c - reading and writing, in every spelling.
 *
 * A descriptor that is not in the table goes straight to the C library, with nothing
 * in between that a signal handler may not do.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <unistd.h>

#include "format/constants.h"
#include "interpose/blocks/range.h"
#include "interpose/control/control.h"
#include "interpose/files/table.h"
#include "interpose/libc/symbols.h"
#include "interpose/libc/transfer.h"
#include "interpose/policy/withheld.h"
#include "interpose/walfiles/compress.h"
#include "interpose/walfiles/tar.h"
#include "interpose/walfiles/tar_gzip.h"

#define TDE_SEGMENT_FILE_SIZE ((off_t)TDE_BLOCKS_PER_SEGMENT * TDE_BLOCK_SIZE)

/* FORTIFY's own way to stop a program that reads past its buffer. */
void __chk_fail(void) __attribute__((noreturn));

static ssize_t not_open_for_reading(void)
{
    errno = EBADF;
    return -1;
}

/* Reads and writes at the file's position move it by what was transferred. */
static ssize_t advance(int fd, off_t offset, ssize_t transferred)
{
    if (transferred > 0 && tde_libc()->lseek(fd, offset + transferred, SEEK_SET) < 0)
        return -1;
    return transferred;
}

/* Where a read or write without an offset takes place, or -1. */
static off_t position(int fd)
{
    return tde_libc()->lseek(fd, 0, SEEK_CUR);
}

/* As Linux has it, a file opened for appending is written at its end whatever the offset. */
static off_t write_offset(const struct tde_file *file, int fd, off_t offset)
{
    return file->append ? tde_libc_file_size(fd) : offset;
}

/* What a read means depends on what the file is. */
static ssize_t load(const struct tde_file *file, int fd, void *to, size_t length, off_t offset)
{
    if (tde_policy_withheld_refuses(file))
        return -1;
    return file->control ? tde_control_pread(fd, to, length, offset)
                         : tde_blocks_pread(file, fd, to, length, offset);
}

/* What a write means also depends on where in a tar file it is. */
static ssize_t store(struct tde_file *file, int fd, const struct iovec *iov, int count,
                     off_t offset)
{
    if (file->control)
        return tde_control_pwritev(fd, iov, count, offset);
    return file->is_tar ? tde_walfiles_tar_pwritev(fd, iov, count, offset)
                        : tde_blocks_pwritev(file, fd, iov, count, offset);
}

static ssize_t write_vector(struct tde_file *file, int fd, const struct iovec *iov,
                            int count, off_t offset)
{
    if (file->compressed)
        return tde_walfiles_compress_refuse(fd);
    offset = write_offset(file, fd, offset);
    return store(file, fd, iov, count, offset);
}

/* A write without an offset: where it was done decides where the position is afterwards. */
static ssize_t write_and_advance(struct tde_file *file, int fd, const struct iovec *iov,
                                 int count)
{
    off_t offset;

    if (file->compressed && count != 1)
        return tde_walfiles_compress_refuse(fd);
    if (file->compressed)
        return file->is_tar ? tde_walfiles_tar_gzip_write(fd, iov->iov_base, iov->iov_len)
                            : tde_walfiles_compress_write(fd, iov->iov_base, iov->iov_len);
    offset = write_offset(file, fd, position(fd));
    if (offset < 0)
        return -1;
    return advance(fd, offset, store(file, fd, iov, count, offset));
}

TDE_EXPORT ssize_t pread(int fd, void *to, size_t length, off_t offset)
{
    const struct tde_file *file = tde_files_find(fd);

    if (file == NULL)
        return tde_libc()->pread(fd, to, length, offset);
    if (file->write_only)
        return not_open_for_reading();
    return load(file, fd, to, length, offset);
}

TDE_EXPORT ssize_t pwrite(int fd, const void *from, size_t length, off_t offset)
{
    struct tde_file *file = tde_files_find(fd);

    if (file == NULL)
        return tde_libc()->pwrite(fd, from, length, offset);
    /* The vector's base is not const in POSIX; writing never changes it. */
    struct iovec iov = {(void *)(uintptr_t)from, length};
    return write_vector(file, fd, &iov, 1, offset);
}

TDE_EXPORT ssize_t read(int fd, void *to, size_t length)
{
    const struct tde_file *file = tde_files_find(fd);
    off_t offset;

    if (file == NULL)
        return tde_libc()->read(fd, to, length);
    if (file->write_only)
        return not_open_for_reading();
    offset = position(fd);
    if (offset < 0)
        return -1;
    return advance(fd, offset, load(file, fd, to, length, offset));
}

TDE_EXPORT ssize_t write(int fd, const void *from, size_t length)
{
    struct tde_file *file = tde_files_find(fd);

    if (file == NULL)
        return tde_libc()->write(fd, from, length);
    struct iovec iov = {(void *)(uintptr_t)from, length};
    return write_and_advance(file, fd, &iov, 1);
}

TDE_EXPORT ssize_t preadv(int fd, const struct iovec *iov, int count, off_t offset)
{
    const struct tde_file *file = tde_files_find(fd);

    if (file == NULL)
        return tde_libc()->preadv(fd, iov, count, offset);
    if (file->write_only)
        return not_open_for_reading();
    if (file->control) /* Nobody reads it in pieces; a state that is hidden stays hidden then. */
        return count == 1 ? load(file, fd, iov->iov_base, iov->iov_len, offset)
                          : tde_libc()->preadv(fd, iov, count, offset);
    if (tde_policy_withheld_refuses(file))
        return -1;
    return tde_blocks_preadv(file, fd, iov, count, offset);
}

TDE_EXPORT ssize_t pwritev(int fd, const struct iovec *iov, int count, off_t offset)
{
    struct tde_file *file = tde_files_find(fd);

    if (file == NULL)
        return tde_libc()->pwritev(fd, iov, count, offset);
    return write_vector(file, fd, iov, count, offset);
}

TDE_EXPORT ssize_t readv(int fd, const struct iovec *iov, int count)
{
    off_t offset;

    if (tde_files_find(fd) == NULL)
        return tde_libc()->readv(fd, iov, count);
    offset = position(fd);
    return offset < 0 ? -1 : advance(fd, offset, preadv(fd, iov, count, offset));
}

TDE_EXPORT ssize_t writev(int fd, const struct iovec *iov, int count)
{
    struct tde_file *file = tde_files_find(fd);

    if (file == NULL)
        return tde_libc()->writev(fd, iov, count);
    return write_and_advance(file, fd, iov, count);
}

/*
 * Positions are the same in plaintext and ciphertext.  But whoever asks for the size of a table is
 * about to read it, perhaps from shared memory, which does not come this way.  A segment file of
 * full size is passed over on the way to a later one also by who only writes.
 */
TDE_EXPORT off_t lseek(int fd, off_t offset, int whence)
{
    const struct tde_file *file = whence == SEEK_END ? tde_files_find(fd) : NULL;
    off_t size;

    if (file == NULL || !tde_policy_withheld_concerns(file))
        return tde_libc()->lseek(fd, offset, whence);
    size = tde_libc_file_size(fd);
    if (size != TDE_SEGMENT_FILE_SIZE && tde_policy_withheld_refuses_size(file))
        return -1;
    return tde_libc()->lseek(fd, offset, whence);
}

/*
 * RWF_HIPRI is a hint.  Any other flag may be a promise, not to wait or about what is written, that
 * cannot be kept where one call becomes several, so it is refused as by a kernel without it.
 */
static int check_flags(int flags)
{
    if ((flags & ~RWF_HIPRI) == 0)
        return 0;
    errno = EOPNOTSUPP;
    return -1;
}

TDE_EXPORT ssize_t preadv2(int fd, const struct iovec *iov, int count, off_t offset, int flags)
{
    if (tde_files_find(fd) == NULL)
        return tde_libc()->preadv2(fd, iov, count, offset, flags);
    if (check_flags(flags) != 0)
        return -1;
    return offset == -1 ? readv(fd, iov, count) : preadv(fd, iov, count, offset);
}

TDE_EXPORT ssize_t pwritev2(int fd, const struct iovec *iov, int count, off_t offset, int flags)
{
    if (tde_files_find(fd) == NULL)
        return tde_libc()->pwritev2(fd, iov, count, offset, flags);
    if (check_flags(flags) != 0)
        return -1;
    return offset == -1 ? writev(fd, iov, count) : pwritev(fd, iov, count, offset);
}

/* What FORTIFY makes of a read whose buffer it knows the size of. */
ssize_t __read_chk(int fd, void *to, size_t length, size_t size);
ssize_t __pread_chk(int fd, void *to, size_t length, off_t offset, size_t size);
ssize_t __pread64_chk(int fd, void *to, size_t length, off_t offset, size_t size);

TDE_EXPORT ssize_t __read_chk(int fd, void *to, size_t length, size_t size)
{
    if (length > size)
        __chk_fail();
    return read(fd, to, length);
}

TDE_EXPORT ssize_t __pread_chk(int fd, void *to, size_t length, off_t offset, size_t size)
{
    if (length > size)
        __chk_fail();
    return pread(fd, to, length, offset);
}

/* On 64-bit systems the large-file names are the same functions. */
TDE_EXPORT ssize_t __pread64_chk(int fd, void *to, size_t length, off_t offset, size_t size)
    __attribute__((alias("__pread_chk")));
TDE_EXPORT off_t lseek64(int fd, off_t offset, int whence) __attribute__((alias("lseek")));
TDE_EXPORT ssize_t pread64(int fd, void *to, size_t length, off_t offset)
    __attribute__((alias("pread")));
TDE_EXPORT ssize_t pwrite64(int fd, const void *from, size_t length, off_t offset)
    __attribute__((alias("pwrite")));
TDE_EXPORT ssize_t preadv64(int fd, const struct iovec *iov, int count, off_t offset)
    __attribute__((alias("preadv")));
TDE_EXPORT ssize_t pwritev64(int fd, const struct iovec *iov, int count, off_t offset)
    __attribute__((alias("pwritev")));
TDE_EXPORT ssize_t preadv64v2(int fd, const struct iovec *iov, int count, off_t offset,
                              int flags) __attribute__((alias("preadv2")));
TDE_EXPORT ssize_t pwritev64v2(int fd, const struct iovec *iov, int count, off_t offset,
                               int flags) __attribute__((alias("pwritev2")));
