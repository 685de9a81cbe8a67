/*
 * calls/links.c - calls that make and remove links and directories, which tablespaces begin with.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "interpose/libc/symbols.h"
#include "interpose/policy/harm.h"
#include "interpose/policy/links.h"
#include "interpose/policy/segment.h"

static int finish_link(int result, const char *target, const char *link)
{
    if (result != 0 || tde_policy_links_sync(target, link) == 0)
        return result;
    int saved = errno;

    tde_libc()->unlink(link);
    errno = saved;
    return -1;
}

TDE_EXPORT int symlink(const char *target, const char *link)
{
    int result;
    int lock;

    if (tde_policy_harm_refuses(AT_FDCWD, link, false) ||
        tde_policy_links_begin(target, link, &lock) != 0)
        return -1;
    result = finish_link(tde_libc()->symlink(target, link), target, link);
    tde_policy_links_end(lock);
    return result;
}

/* PostgreSQL makes no tablespace relative to a descriptor, so LINK names it from where we are. */
TDE_EXPORT int symlinkat(const char *target, int directory, const char *link)
{
    if (directory == AT_FDCWD || link[0] == '/')
        return symlink(target, link);
    if (tde_policy_harm_refuses(directory, link, false))
        return -1;
    return tde_libc()->symlinkat(target, directory, link);
}

TDE_EXPORT int mkdir(const char *path, mode_t mode)
{
    struct stat status;
    int result;
    int lock = -1;

    if (tde_policy_harm_refuses(AT_FDCWD, path, false))
        return -1;
    /* A directory that exists is an answer, and no new tablespace. */
    if (lstat(path, &status) != 0 && tde_policy_links_begin(NULL, path, &lock) != 0)
        return -1;
    result = tde_libc()->mkdir(path, mode);
    tde_policy_links_end(lock);
    return result;
}

TDE_EXPORT int mkdirat(int directory, const char *path, mode_t mode)
{
    if (directory == AT_FDCWD || path[0] == '/')
        return mkdir(path, mode);
    if (tde_policy_harm_refuses(directory, path, false))
        return -1;
    return tde_libc()->mkdirat(directory, path, mode);
}

static int finish_removal(int result, const char *path)
{
    if (result == 0)
        tde_policy_links_removed(path);
    return result;
}

TDE_EXPORT int unlink(const char *path)
{
    if (tde_policy_harm_refuses(AT_FDCWD, path, false) ||
        tde_policy_segment_may_be_removed(path) != 0)
        return -1;
    return finish_removal(tde_libc()->unlink(path), path);
}

TDE_EXPORT int rmdir(const char *path)
{
    if (tde_policy_harm_refuses(AT_FDCWD, path, false))
        return -1;
    return finish_removal(tde_libc()->rmdir(path), path);
}

TDE_EXPORT int unlinkat(int directory, const char *path, int flags)
{
    int result;

    if (tde_policy_harm_refuses(directory, path, false))
        return -1;
    result = tde_libc()->unlinkat(directory, path, flags);
    return directory == AT_FDCWD ? finish_removal(result, path) : result;
}
