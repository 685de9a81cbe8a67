/*
 * policy/place.c - see policy/place.h.
 *
 * Directories are compared by device and inode, so links and bind mounts do not matter.  Nothing
 * is remembered between calls: a tablespace may come and go, and only the opening of a file that
 * nobody knows asks.
 */
#include "interpose/policy/place.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "interpose/libc/transfer.h"
#include "interpose/policy/process.h"

#define TABLESPACES "pg_tblspc"
#define MOST_LINKS 40 /* as in the kernel */

/* A path without links, and where in it the innermost directory of the cluster ends. */
struct search {
    char path[PATH_MAX];
    size_t inside; /* length of that directory; 0 when there is none */
    char name[PATH_MAX]; /* what PostgreSQL calls it */
};

bool tde_policy_place_is_below(int dirfd, const char *path)
{
    return dirfd == AT_FDCWD && path[0] != '/' && path[0] != '\0' && strstr(path, "..") == NULL;
}

/* What cannot be reached cannot be opened either, and the kernel says why. */
static int unreachable(void)
{
    switch (errno) {
    case ENOENT:
    case ENOTDIR:
    case EACCES:
    case ELOOP:
        return 0;
    default:
        return -1;
    }
}

/* PATH from the directory DIRFD on, as a whole path; 0, or -1 with errno. */
static int make_whole(int dirfd, const char *path, char whole[PATH_MAX])
{
    size_t length = 0;

    if (path[0] != '/') {
        length = tde_libc_descriptor_path(dirfd, whole);
        if (length == 0)
            return -1;
        whole[length++] = '/';
    }
    if (length + strlen(path) >= PATH_MAX) {
        errno = ENAMETOOLONG;
        return -1;
    }
    strcpy(whole + length, path);
    return 0;
}

/*
 * Replace a link at the end of PATH, whose directory has no links, by where it leads.  1 when it
 * was one, 0 when it was none, -1 with errno.
 */
static int follow_link(char path[PATH_MAX])
{
    char to[PATH_MAX];
    ssize_t length = readlink(path, to, sizeof to - 1);
    char *slash = strrchr(path, '/');

    if (length < 0)
        return 0;
    to[length] = '\0';
    if (to[0] == '/')
        slash = path;
    else
        slash++;
    if ((size_t)(slash - path) + strlen(to) >= PATH_MAX) {
        errno = ENAMETOOLONG;
        return -1;
    }
    strcpy(slash, to);
    return 1;
}

/* The directory of WHOLE without links, and the name in it, into PATH; as resolve. */
static int resolve_directory(char whole[PATH_MAX], char path[PATH_MAX])
{
    char *slash = strrchr(whole, '/');
    size_t length;

    if (slash[1] == '\0')
        return 0;
    *slash = '\0';
    if (realpath(slash == whole ? "/" : whole, path) == NULL)
        return unreachable();
    length = strlen(path);
    if (length + 1 + strlen(slash + 1) >= PATH_MAX) {
        errno = ENAMETOOLONG;
        return -1;
    }
    if (length > 1)
        path[length++] = '/';
    strcpy(path + length, slash + 1);
    return 1;
}

/*
 * 1 with the path in SEARCH, else as tde_policy_place_find.  A file that does not exist is made
 * where a link of its name leads, so such links are followed as the kernel does.
 */
static int resolve(int dirfd, const char *path, struct search *search)
{
    char whole[PATH_MAX];

    if (make_whole(dirfd, path, whole) != 0)
        return -1;
    for (int links = 0; links < MOST_LINKS; links++) {
        int result;

        if (realpath(whole, search->path) != NULL)
            return 1;
        if (errno != ENOENT)
            return unreachable();
        result = resolve_directory(whole, search->path);
        if (result != 1)
            return result;
        result = follow_link(search->path);
        if (result != 1)
            return result == 0 ? 1 : -1;
        strcpy(whole, search->path);
    }
    return 0; /* ELOOP */
}

/* Look for a directory of the cluster among those that the path goes through. */
static void look_for(const char *directory, const char *name, struct search *search)
{
    struct stat wanted;
    char *path = search->path;

    if (stat(directory, &wanted) != 0)
        return;
    for (size_t length = strlen(path); length > search->inside; length--) {
        struct stat status;
        char end = path[length];
        int found;

        if (end != '/' && end != '\0')
            continue;
        path[length] = '\0';
        found = stat(path, &status);
        path[length] = end;
        if (found != 0 || status.st_dev != wanted.st_dev || status.st_ino != wanted.st_ino)
            continue;
        search->inside = length;
        snprintf(search->name, sizeof search->name, "%s", name);
        return;
    }
}

/* DIRECTORY of the data directory, which may be a link to elsewhere. */
static void look_below(const char *data, const char *directory, struct search *search)
{
    char path[PATH_MAX];

    if (snprintf(path, sizeof path, "%s/%s", data, directory) < (int)sizeof path)
        look_for(path, directory, search);
}

static int look_in_tablespaces(const char *data, struct search *search)
{
    char path[PATH_MAX];
    const struct dirent *entry;
    DIR *directory;

    if (snprintf(path, sizeof path, "%s/" TABLESPACES, data) >= (int)sizeof path)
        return 0;
    directory = opendir(path);
    if (directory == NULL)
        return errno == ENOENT ? 0 : -1;
    while ((entry = readdir(directory)) != NULL) {
        char name[sizeof TABLESPACES + NAME_MAX + 1];

        if (entry->d_name[0] == '.')
            continue;
        snprintf(name, sizeof name, TABLESPACES "/%s", entry->d_name);
        look_below(data, name, search);
    }
    closedir(directory);
    return 0;
}

int tde_policy_place_find(int dirfd, const char *path, char name[PATH_MAX])
{
    static const char *const places[] = {"base", "global", "pg_wal"};
    const char *data = tde_policy_process_data_directory();
    struct search search = {.inside = 0};
    const char *rest;
    int result = resolve(dirfd, path, &search);

    if (result != 1)
        return result;
    look_for(data, "", &search);
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++)
        look_below(data, places[i], &search);
    if (look_in_tablespaces(data, &search) != 0)
        return -1;
    if (search.inside == 0)
        return 0;
    rest = search.path + search.inside;
    if (search.name[0] == '\0' && *rest == '/')
        rest++;
    if (snprintf(name, PATH_MAX, "%s%s", search.name, rest) < PATH_MAX)
        return 1;
    errno = ENAMETOOLONG;
    return -1;
}
