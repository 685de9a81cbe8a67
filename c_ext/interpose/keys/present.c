/*
 * keys/present.c - see keys/present.h.
 */
#include "interpose/keys/present.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "interpose/keys/records.h"
#include "interpose/keys/slots.h"

#define SUFFIX ".key"

struct key {
    char name[TDE_PRESENT_DIGITS + 1];
    struct timespec added;
};

struct keys {
    struct key *all;
    size_t count;
    size_t room;
};

static bool all_of(const char *text, size_t length, const char *characters)
{
    return length > 0 && strspn(text, characters) >= length;
}

/* What a file name calls its key: <id>.key, wal.<number>.<id>.key or <OID>.key. */
static bool name_of(const char *file, char name[TDE_PRESENT_DIGITS + 1])
{
    size_t length = strlen(file);
    const char *from = file;

    if (length <= strlen(SUFFIX) || strcmp(file + length - strlen(SUFFIX), SUFFIX) != 0)
        return false;
    length -= strlen(SUFFIX);
    for (const char *dot = memchr(from, '.', length); dot != NULL;
         dot = memchr(from, '.', length)) {
        length -= (size_t)(dot + 1 - from);
        from = dot + 1;
    }
    if (length == 2 * TDE_UUID_SIZE && all_of(from, length, "0123456789abcdef"))
        length = TDE_PRESENT_DIGITS;
    else if (from != file || length > 10 || !all_of(from, length, "0123456789"))
        return false;
    memcpy(name, from, length);
    name[length] = '\0';
    return true;
}

static bool add(struct keys *keys, int directory, const char *file)
{
    struct key key;
    struct stat status;

    if (!name_of(file, key.name))
        return true;
    if (fstatat(directory, file, &status, AT_SYMLINK_NOFOLLOW) != 0)
        return errno == ENOENT; /* A rotation of the master key renames the directory. */
    if (!S_ISREG(status.st_mode) || status.st_size == 0)
        return true;
    key.added = status.st_ctim;
    if (keys->count == keys->room) {
        size_t room = keys->room == 0 ? 64 : 2 * keys->room;
        struct key *all = realloc(keys->all, room * sizeof *all);

        if (all == NULL)
            return false;
        keys->all = all;
        keys->room = room;
    }
    keys->all[keys->count++] = key;
    return true;
}

/* 1, 0 when there is no such directory, or -1. */
static int add_directory(struct keys *keys, const char *name)
{
    char path[TDE_HANDOVER_PATH_MAX + 64];
    const struct dirent *found;
    DIR *directory;
    bool is_read = true;

    snprintf(path, sizeof path, "%s/%s", tde_keys_scope()->keystore, name);
    directory = opendir(path);
    if (directory == NULL)
        return errno == ENOENT ? 0 : -1;
    while (is_read) {
        errno = 0;
        found = readdir(directory);
        if (found == NULL)
            break;
        is_read = add(keys, dirfd(directory), found->d_name);
    }
    is_read = is_read && errno == 0;
    closedir(directory);
    return is_read ? 1 : -1;
}

static int newest_first(const void *one, const void *other)
{
    const struct timespec *a = &((const struct key *)one)->added;
    const struct timespec *b = &((const struct key *)other)->added;

    if (a->tv_sec != b->tv_sec)
        return a->tv_sec > b->tv_sec ? -1 : 1;
    return a->tv_nsec == b->tv_nsec ? 0 : a->tv_nsec > b->tv_nsec ? -1 : 1;
}

static const char *find(const char *list, const char *name, size_t length)
{
    for (const char *at = list; at != NULL; at = strchr(at, ',')) {
        at += *at == ',' ? 1 : 0;
        if (strncmp(at, name, length) == 0 && (at[length] == ',' || at[length] == '\0'))
            return at;
    }
    return NULL;
}

/* While the master key is rotated a key is in two directories, and once in the list. */
static void write_list(struct keys *keys, char list[TDE_PRESENT_SIZE])
{
    size_t written = 0;
    char *end = list;

    *end = '\0';
    if (keys->count > 0)
        qsort(keys->all, keys->count, sizeof *keys->all, newest_first);
    for (size_t i = 0; i < keys->count; i++) {
        const char *name = keys->all[i].name;

        if (find(list, name, strlen(name)) != NULL)
            continue;
        if (written++ == TDE_PRESENT_MOST)
            name = TDE_PRESENT_MORE;
        end += sprintf(end, "%s%s", end == list ? "" : ",", name);
        if (written > TDE_PRESENT_MOST)
            break;
    }
}

bool tde_keys_present(char list[TDE_PRESENT_SIZE])
{
    struct keys keys = {NULL, 0, 0};
    bool found = false;
    bool is_read = true;

    for (size_t i = 0; is_read && i < TDE_KEYS_DIRECTORIES; i++) {
        int added = add_directory(&keys, tde_keys_records_directories[i]);

        found = found || added > 0;
        is_read = added >= 0;
    }
    if (found && is_read)
        write_list(&keys, list);
    free(keys.all);
    return found && is_read;
}

bool tde_keys_present_has(const char *list, const char *id)
{
    return find(list, id, TDE_PRESENT_DIGITS) != NULL ||
           find(list, TDE_PRESENT_MORE, strlen(TDE_PRESENT_MORE)) != NULL;
}
