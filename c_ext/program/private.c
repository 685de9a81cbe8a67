/*
 * program/private.c - see program/private.h.
 */
#include "program/private.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MOST_GROUPS 1024 /* More than one user has them, and none of those counts here. */

/* Whether this user has a group; root looks at what it has given to another's group. */
static bool is_ours(gid_t group)
{
    static gid_t groups[MOST_GROUPS];
    int count;

    if (geteuid() == 0)
        return group != 0;
    if (group == getegid())
        return true;
    count = getgroups(MOST_GROUPS, groups);
    for (int i = 0; i < count; i++)
        if (groups[i] == group)
            return true;
    return false;
}

/*
 * Others have no access.  A group of ours may read what is root's: that is how a container, or
 * root, gives a secret to a server that must not change it.
 */
static bool is_closed(const struct stat *status)
{
    if ((status->st_mode & 077) == 0)
        return true;
    return status->st_uid == 0 && (status->st_mode & 027) == 0 && is_ours(status->st_gid);
}

static const char *problem_of_directory(const struct stat *status)
{
    if (geteuid() != 0 && status->st_uid != geteuid() && status->st_uid != 0)
        return "must belong to the current user, or to root";
    return is_closed(status) ? NULL : "must be closed to all other users";
}

static const char *problem_of_file(const struct stat *status, const struct stat *directory)
{
    if (!S_ISREG(status->st_mode))
        return "is not a regular file";
    if (status->st_uid != directory->st_uid)
        return "must belong to the owner of its directory";
    return is_closed(status) ? NULL : "must be closed to all other users";
}

/* The directory of a file. */
static bool look_at_parent(const char *path, char parent[PATH_MAX], struct stat *status)
{
    char *slash;

    if (snprintf(parent, PATH_MAX, "%s", path) >= PATH_MAX)
        return false;
    slash = strrchr(parent, '/');
    if (slash == NULL || slash == parent)
        return false;
    *slash = '\0';
    return stat(parent, status) == 0;
}

ssize_t tde_program_read_private(const char *path, void *to, size_t size, const char **culprit,
                                 const char **problem)
{
    static char parent[PATH_MAX];
    struct stat directory;
    struct stat status;
    ssize_t result = -1;
    int fd;
    int saved;

    *culprit = parent;
    *problem = NULL;
    if (!look_at_parent(path, parent, &directory))
        return -1;
    *problem = problem_of_directory(&directory);
    if (*problem != NULL)
        return -1;
    *culprit = path;
    /* O_NONBLOCK: opening a FIFO that somebody planted would otherwise wait for ever. */
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return -1;
    if (fstat(fd, &status) == 0) {
        *problem = problem_of_file(&status, &directory);
        if (*problem == NULL)
            result = read(fd, to, size);
        if (result >= 0 && status.st_size > (off_t)size)
            result = (ssize_t)status.st_size;
    }
    saved = errno;
    close(fd);
    errno = saved;
    return result;
}
