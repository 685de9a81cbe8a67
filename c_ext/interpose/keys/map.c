/*
 * keys/map.c - see keys/map.h.
 */
#include "interpose/keys/map.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "format/identity.h"
#include "interpose/keys/records.h"
#include "interpose/keys/slots.h"
#include "interpose/libc/report.h"
#include "interpose/libc/symbols.h"
#include "interpose/libc/transfer.h"

#define LONGEST_WAIT 30 /* seconds; others hold the lock for a write and an fsync */

/* The directories of a cluster that hold what is encrypted, and pg_control. */
static bool is_place(const char *name, size_t length)
{
    static const char *const places[] = {"base", "global", "pg_wal", "pg_tblspc"};

    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++)
        if (strlen(places[i]) == length && memcmp(name, places[i], length) == 0)
            return true;
    return false;
}

ssize_t tde_keys_map_directory_length(const char *path)
{
    ssize_t found = -1;

    for (const char *at = path; *at != '\0';) {
        size_t length = strcspn(at, "/");

        if (at[length] == '/' && is_place(at, length))
            found = at - path;
        at += length;
        at += strspn(at, "/");
    }
    return found;
}

/* Write the path of a file of the data directory that PATH leads into.  0, or -1 with errno. */
static int path_beside(const char *path, const char *name, char to[PATH_MAX])
{
    ssize_t length = path == NULL ? 0 : tde_keys_map_directory_length(path);

    if (length < 0)
        length = 0;
    if ((size_t)length + strlen(name) >= PATH_MAX) {
        errno = ENAMETOOLONG;
        return -1;
    }
    memcpy(to, path == NULL ? "" : path, (size_t)length);
    strcpy(to + length, name);
    return 0;
}

/* What the handlers of a server's process say; they interrupt no call that is made again. */
static bool is_cancelled(void)
{
    static const char *const names[] = {"QueryCancelPending", "ProcDiePending"};

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const volatile sig_atomic_t *pending = dlsym(RTLD_DEFAULT, names[i]);

        if (pending != NULL && *pending != 0)
            return true;
    }
    return false;
}

static int64_t milliseconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Whoever may read the map may lock it, so nobody is waited for without end. */
static int lock(const struct tde_keys_map *map)
{
    static const struct timespec pause = {.tv_nsec = 10000000};
    int64_t begin = milliseconds();

    while (flock(map->fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK && errno != EINTR) {
            int cause = errno;

            tde_libc_report("could not lock the key map %s: %s", map->path, strerror(cause));
            errno = cause;
            return -1;
        }
        if (is_cancelled()) {
            errno = EINTR;
            return -1;
        }
        if (milliseconds() - begin > LONGEST_WAIT * 1000) {
            tde_libc_report("could not lock the key map %s, because another process has it locked "
                            "for %d seconds; HINT: find that process with \"fuser -v %s\"; then "
                            "remove the empty directory that PostgreSQL has made in the location, "
                            "and repeat the command",
                            map->path, LONGEST_WAIT, map->path);
            errno = ETIMEDOUT;
            return -1;
        }
        nanosleep(&pause, NULL);
    }
    return 0;
}

static int refuse(const struct tde_keys_map *map, const char *problem)
{
    tde_libc_report("the key map %s cannot be used: %s; HINT: restore " TDE_KEYMAP_FILE
                    " from " TDE_KEYMAP_SOURCE "; without it nobody knows which key a tablespace "
                    "has",
                    map->path, problem);
    errno = ENOKEY;
    return -1;
}

/* Whether the map is not there because no release that writes one has started the cluster yet. */
static bool is_of_older_release(const struct tde_keys_map *map)
{
    char path[sizeof map->path];
    char marker[TDE_MARKER_LIMIT + 1];
    size_t length = strlen(map->path) - strlen(TDE_KEYMAP_FILE);
    ssize_t count;
    int fd;

    memcpy(path, map->path, length);
    strcpy(path + length, TDE_MARKER_FILE); /* which is shorter */
    fd = tde_libc()->open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return false;
    count = tde_libc_read_fully(fd, marker, TDE_MARKER_LIMIT, 0);
    tde_libc()->close(fd);
    if (count < 0)
        return false;
    marker[count] = '\0';
    return tde_format_keymap_is_older(marker);
}

static int refuse_missing(const struct tde_keys_map *map)
{
    if (!is_of_older_release(map))
        return refuse(map, strerror(ENOENT));
    tde_libc_report("the key map %s is missing: the cluster was last started by an older release "
                    "of tde; HINT: start and stop it once with \"tde pg start\", which writes it",
                    map->path);
    errno = ENOKEY;
    return -1;
}

int tde_keys_map_refuse_unknown(const struct tde_keys_map *map, uint32_t oid)
{
    tde_libc_report("the key map %s does not say what key tablespace %u has; HINT: it is older "
                    "than the tablespace: restore " TDE_KEYMAP_FILE " from " TDE_KEYMAP_SOURCE,
                    map->path, oid);
    errno = ENOKEY;
    return -1;
}

static int read_content(struct tde_keys_map *map)
{
    const struct tde_keys_scope *scope = tde_keys_scope();
    off_t size = tde_libc_file_size(map->fd);
    const char *problem;
    ssize_t length;

    if (size < 0)
        return -1;
    if (size > (off_t)TDE_KEYMAP_LONGEST)
        return refuse(map, "it is too long");
    map->content = malloc((size_t)size + TDE_KEYMAP_UNIT);
    if (map->content == NULL)
        return -1;
    length = tde_libc_read_fully(map->fd, map->content, (size_t)size, 0);
    if (length < 0)
        return -1;
    problem = tde_format_keymap_check(map->content, (size_t)length, scope->scope.keystore,
                                      scope->map_key, &map->usable);
    return problem == NULL ? 0 : refuse(map, problem);
}

int tde_keys_map_open(struct tde_keys_map *map, const char *path, bool appends)
{
    int flags = O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | (appends ? O_RDWR : O_RDONLY);

    memset(map, 0, sizeof *map);
    map->fd = -1;
    if (path_beside(path, TDE_KEYMAP_FILE, map->path) != 0)
        return -1;
    map->fd = tde_libc()->open(map->path, flags);
    if (map->fd < 0) {
        int cause = errno;

        if (!tde_keys_records_blame())
            return -1;
        return cause == ENOENT ? refuse_missing(map) : refuse(map, strerror(cause));
    }
    if (appends && lock(map) != 0) {
        tde_keys_map_close(map);
        return -1;
    }
    if (read_content(map) != 0) {
        int cause = errno;

        if (cause != ENOKEY && tde_keys_records_blame())
            refuse(map, strerror(cause));
        tde_keys_map_close(map);
        return -1;
    }
    return 0;
}

bool tde_keys_map_is_not_yet(const char *path)
{
    char name[PATH_MAX];
    struct tde_keys_map map;
    struct stat status;

    if (path_beside(path, TDE_KEYMAP_FILE, map.path) != 0 || lstat(map.path, &status) == 0 ||
        errno != ENOENT || path_beside(path, TDE_MARKER_FILE, name) != 0)
        return false;
    return (lstat(name, &status) != 0 && errno == ENOENT) || is_of_older_release(&map);
}

void tde_keys_map_close(struct tde_keys_map *map)
{
    int saved = errno;

    if (map->fd >= 0)
        tde_libc()->close(map->fd);
    free(map->content);
    map->fd = -1;
    map->content = NULL;
    errno = saved;
}

int tde_keys_map_append(struct tde_keys_map *map, const struct tde_keymap_entry *entry)
{
    uint8_t *end = map->content + map->usable;
    off_t usable = (off_t)map->usable;

    if (tde_format_keymap_append(end - TDE_KEYMAP_UNIT, tde_keys_scope()->map_key, entry,
                                 end) != 0) {
        errno = EIO;
        return -1;
    }
    /* What an earlier append has left behind its last whole entry is cut off first. */
    if (tde_libc()->ftruncate(map->fd, usable) == 0 &&
        tde_libc_write_fully(map->fd, end, TDE_KEYMAP_UNIT, usable) == TDE_KEYMAP_UNIT &&
        fsync(map->fd) == 0)
        return 0;
    int cause = errno;

    tde_libc_report("could not write the key map %s: %s", map->path, strerror(cause));
    if (tde_libc()->ftruncate(map->fd, usable) != 0)
        tde_libc_report("could not cut the key map %s: %s", map->path, strerror(errno));
    errno = cause;
    return -1;
}

/* What the data directory has under pg_tblspc/NAME.  The length as of snprintf. */
static int link_path(const struct tde_keys_map *map, const char *name, char to[PATH_MAX])
{
    int length = (int)(strlen(map->path) - strlen(TDE_KEYMAP_FILE));

    return snprintf(to, PATH_MAX, "%.*spg_tblspc/%s", length, map->path, name);
}

int tde_keys_map_require_complete(const struct tde_keys_map *map)
{
    struct tde_keymap_entry entry;
    struct dirent *found;
    char path[PATH_MAX];
    DIR *directory;
    int result = 0;

    if (link_path(map, "", path) >= PATH_MAX)
        return 0;
    directory = opendir(path);
    if (directory == NULL)
        return -1;
    while (result == 0 && (found = readdir(directory)) != NULL) {
        uint32_t oid;

        if (link_path(map, found->d_name, path) < PATH_MAX &&
            tde_format_parse_tablespace_link(path, &oid) &&
            !tde_format_keymap_find(map->content, map->usable, oid, &entry))
            result = tde_keys_map_refuse_unknown(map, oid);
    }
    int saved = errno;

    closedir(directory);
    errno = saved;
    return result;
}

bool tde_keys_map_is_linked(const struct tde_keys_map *map, uint32_t oid)
{
    char name[16];
    char link[PATH_MAX];
    struct stat status;

    snprintf(name, sizeof name, "%u", oid);
    return link_path(map, name, link) < PATH_MAX && lstat(link, &status) == 0;
}
