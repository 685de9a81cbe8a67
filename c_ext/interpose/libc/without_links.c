/*
 * libc/without_links.c - see libc/without_links.h.
 */
#include "interpose/libc/without_links.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/openat2.h>

/* What openat2(2) says of a path that it does not follow, or when it is not there to say so. */
static bool is_undecided(int error)
{
    switch (error) {
    case ELOOP:  /* a link */
    case EXDEV:  /* a mount */
    case EAGAIN: /* Somebody renamed a directory of the path in this moment. */
    case EINVAL: /* a flag that open ignores */
    case E2BIG:
    case ENOSYS:
    case EPERM: /* seccomp; or an immutable file, which open then refuses as well */
        return true;
    default:
        return false;
    }
}

bool tde_libc_open_without_links(const char *path, int flags, mode_t mode, int *fd)
{
    bool makes = (flags & O_CREAT) != 0 || (flags & O_TMPFILE) == O_TMPFILE;
    struct open_how how = {
        .flags = (uint64_t)(unsigned int)flags,
        /* open ignores the type of a file among its permissions, and openat2 refuses it. */
        .mode = makes ? mode & 07777u : 0,
        .resolve = RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV,
    };

    *fd = (int)syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof how);
    return *fd >= 0 || !is_undecided(errno);
}
