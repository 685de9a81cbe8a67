/*
 * calls/open.c - the ways to get, copy and give up a file descriptor.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stddef.h>
#include <unistd.h>

#include "interpose/files/table.h"
#include "interpose/libc/symbols.h"
#include "interpose/policy/open.h"

/* O_TMPFILE includes O_DIRECTORY, so all of its bits must be there. */
static int makes_file(int flags)
{
    return (flags & O_CREAT) != 0 || (flags & O_TMPFILE) == O_TMPFILE;
}

#define MODE_ARGUMENT(flags, mode)                                                         \
    do {                                                                                   \
        if (makes_file(flags)) {                                                           \
            va_list arguments;                                                             \
            va_start(arguments, flags);                                                    \
            (mode) = va_arg(arguments, mode_t);                                            \
            va_end(arguments);                                                             \
        }                                                                                  \
    } while (0)

TDE_EXPORT int open(const char *path, int flags, ...)
{
    mode_t mode = 0;

    MODE_ARGUMENT(flags, mode);
    return tde_policy_open_at(AT_FDCWD, path, flags, mode);
}

TDE_EXPORT int openat(int dirfd, const char *path, int flags, ...)
{
    mode_t mode = 0;

    MODE_ARGUMENT(flags, mode);
    return tde_policy_open_at(dirfd, path, flags, mode);
}

TDE_EXPORT int creat(const char *path, mode_t mode)
{
    return tde_policy_open_at(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}

/* What FORTIFY makes of open without a mode; it aborts where a mode would be needed. */
int __open_2(const char *path, int flags);
int __openat_2(int dirfd, const char *path, int flags);

TDE_EXPORT int __open_2(const char *path, int flags)
{
    return tde_policy_open_at(AT_FDCWD, path, flags, 0);
}

TDE_EXPORT int __openat_2(int dirfd, const char *path, int flags)
{
    return tde_policy_open_at(dirfd, path, flags, 0);
}

/* On 64-bit systems the large-file names are the same functions. */
TDE_EXPORT int open64(const char *path, int flags, ...) __attribute__((alias("open")));
TDE_EXPORT int openat64(int dirfd, const char *path, int flags, ...)
    __attribute__((alias("openat")));
TDE_EXPORT int creat64(const char *path, mode_t mode) __attribute__((alias("creat")));
TDE_EXPORT int __open64_2(const char *path, int flags) __attribute__((alias("__open_2")));
TDE_EXPORT int __openat64_2(int dirfd, const char *path, int flags)
    __attribute__((alias("__openat_2")));

/*
 * The entry goes before the descriptor does: between the two another thread could get
 * the same number for another file.
 */
TDE_EXPORT int close(int fd)
{
    tde_files_clear(fd);
    return tde_libc()->close(fd);
}

TDE_EXPORT int close_range(unsigned int first, unsigned int last, int flags)
{
    if (tde_libc()->close_range == NULL) {
        errno = ENOSYS;
        return -1;
    }
    if (((unsigned int)flags & CLOSE_RANGE_CLOEXEC) == 0)
        tde_files_clear_range(first, last);
    return tde_libc()->close_range(first, last, flags);
}

TDE_EXPORT void closefrom(int first)
{
    tde_files_clear_range(first < 0 ? 0 : (unsigned int)first, UINT_MAX);
    if (tde_libc()->closefrom != NULL)
        tde_libc()->closefrom(first);
}

/* A descriptor that cannot be entered in the table must not exist: it would write plaintext. */
static int enter_copy(int from, int to)
{
    int error;

    if (to < 0 || to == from)
        return to;
    error = tde_files_copy(from, to);
    if (error != 0) {
        tde_libc()->close(to);
        errno = error;
        return -1;
    }
    return to;
}

TDE_EXPORT int dup(int fd)
{
    return enter_copy(fd, tde_libc()->dup(fd));
}

TDE_EXPORT int dup2(int from, int to)
{
    return enter_copy(from, tde_libc()->dup2(from, to));
}

TDE_EXPORT int dup3(int from, int to, int flags)
{
    return enter_copy(from, tde_libc()->dup3(from, to, flags));
}

static int set_status_flags(int fd, long flags)
{
    const struct tde_file *file = tde_files_find(fd);

    if (file == NULL)
        return tde_libc()->fcntl(fd, F_SETFL, flags);
    if (((flags & O_APPEND) != 0) != file->append) {
        errno = EOPNOTSUPP; /* Decided when the file is opened, see tde_policy_describe. */
        return -1;
    }
    return tde_libc()->fcntl(fd, F_SETFL, flags & ~(long)O_APPEND);
}

static int get_status_flags(int fd)
{
    const struct tde_file *file = tde_files_find(fd);
    int flags = tde_libc()->fcntl(fd, F_GETFL);

    if (flags >= 0 && file != NULL && file->write_only)
        flags = (flags & ~O_ACCMODE) | O_WRONLY;
    if (flags >= 0 && file != NULL && file->append)
        flags |= O_APPEND;
    return flags;
}

TDE_EXPORT int fcntl(int fd, int command, ...)
{
    va_list arguments;
    void *argument;

    /* Every third argument is an int or a pointer; both arrive whole in a pointer. */
    va_start(arguments, command);
    argument = va_arg(arguments, void *);
    va_end(arguments);
    switch (command) {
    case F_DUPFD:
    case F_DUPFD_CLOEXEC:
        return enter_copy(fd, tde_libc()->fcntl(fd, command, argument));
    case F_SETFL:
        return set_status_flags(fd, (long)argument);
    case F_GETFL:
        return get_status_flags(fd);
    default:
        return tde_libc()->fcntl(fd, command, argument);
    }
}

TDE_EXPORT int fcntl64(int fd, int command, ...) __attribute__((alias("fcntl")));
