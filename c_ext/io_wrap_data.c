/*
 * io_wrap_data.c - reading and writing, in every spelling.
 *
 * A descriptor that is not in the table goes straight to the C library, with nothing
 * in between that a signal handler may not do.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <unistd.h>

#include "io_block.h"
#include "io_files.h"
#include "io_symbols.h"

/* FORTIFY's own way to stop a program that reads past its buffer. */
void __chk_fail(void) __attribute__((noreturn));

static ssize_t not_open_for_reading(void)
{
    errno = EBADF;
    return -1;
}

/* Reads and writes at the file's position move it by what was transferred. */
static ssize_t advance(int fd, off_t position, ssize_t transferred)
{
    if (transferred > 0 && tde_libc()->lseek(fd, position + transferred, SEEK_SET) < 0)
        return -1;
    return transferred;
}

static ssize_t write_at(const struct tde_file *file, int fd, const void *from, size_t length,
                        off_t offset)
{
    /* The vector's base is not const in POSIX; writing never changes it. */
    struct iovec iov = {(void *)(uintptr_t)from, length};

    return tde_block_pwritev(file, fd, &iov, 1, offset);
}

TDE_EXPORT ssize_t pread(int fd, void *to, size_t length, off_t offset)
{
    const struct tde_file *file = tde_files_find(fd);

    if (file == NULL)
        return tde_libc()->pread(fd, to, length, offset);
    if (file->write_only)
        return not_open_for_reading();
    return tde_block_pread(file, fd, to, length, offset);
}

TDE_EXPORT ssize_t pwrite(int fd, const void *from, size_t length, off_t offset)
{
    const struct tde_file *file = tde_files_find(fd);

    if (file == NULL)
        return tde_libc()->pwrite(fd, from, length, offset);
    return write_at(file, fd, from, length, offset);
}

TDE_EXPORT ssize_t read(int fd, void *to, size_t length)
{
    const struct tde_file *file = tde_files_find(fd);
    off_t position;

    if (file == NULL)
        return tde_libc()->read(fd, to, length);
    if (file->write_only)
        return not_open_for_reading();
    position = tde_libc()->lseek(fd, 0, SEEK_CUR);
    if (position < 0)
        return -1;
    return advance(fd, position, tde_block_pread(file, fd, to, length, position));
}

TDE_EXPORT ssize_t write(int fd, const void *from, size_t length)
{
    const struct tde_file *file = tde_files_find(fd);
    off_t position;

    if (file == NULL)
        return tde_libc()->write(fd, from, length);
    position = tde_libc()->lseek(fd, 0, SEEK_CUR);
    if (position < 0)
        return -1;
    return advance(fd, position, write_at(file, fd, from, length, position));
}

TDE_EXPORT ssize_t preadv(int fd, const struct iovec *iov, int count, off_t offset)
{
    const struct tde_file *file = tde_files_find(fd);

    if (file == NULL)
        return tde_libc()->preadv(fd, iov, count, offset);
    if (file->write_only)
        return not_open_for_reading();
    return tde_block_preadv(file, fd, iov, count, offset);
}

TDE_EXPORT ssize_t pwritev(int fd, const struct iovec *iov, int count, off_t offset)
{
    const struct tde_file *file = tde_files_find(fd);

    if (file == NULL)
        return tde_libc()->pwritev(fd, iov, count, offset);
    return tde_block_pwritev(file, fd, iov, count, offset);
}

TDE_EXPORT ssize_t readv(int fd, const struct iovec *iov, int count)
{
    off_t position;

    if (tde_files_find(fd) == NULL)
        return tde_libc()->readv(fd, iov, count);
    position = tde_libc()->lseek(fd, 0, SEEK_CUR);
    return position < 0 ? -1 : advance(fd, position, preadv(fd, iov, count, position));
}

TDE_EXPORT ssize_t writev(int fd, const struct iovec *iov, int count)
{
    off_t position;

    if (tde_files_find(fd) == NULL)
        return tde_libc()->writev(fd, iov, count);
    position = tde_libc()->lseek(fd, 0, SEEK_CUR);
    return position < 0 ? -1 : advance(fd, position, pwritev(fd, iov, count, position));
}

/* The flags are hints or refusals to wait; one that changes what is written is refused. */
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
