/*
 * policy/rewind.c - see policy/rewind.h.
 */
#include "interpose/policy/rewind.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "format/keymap.h"
#include "interpose/keys/map.h"
#include "interpose/keys/slots.h"
#include "interpose/libc/report.h"
#include "interpose/libc/symbols.h"

static char target[PATH_MAX];
static char source[PATH_MAX];

/* The WAL directory of the cluster that pg_rewind rewinds; st_ino is 0 when unknown. */
static struct stat target_wal;

/* The value of an option among the NUL-separated arguments; SHORT may be NULL. */
static void find_option(const char *arguments, const char *end, const char *short_name,
                        const char *long_name, char to[PATH_MAX])
{
    size_t length = strlen(long_name);

    for (const char *arg = arguments; arg < end; arg += strlen(arg) + 1) {
        const char *next = arg + strlen(arg) + 1;
        const char *value = NULL;

        if ((short_name != NULL && strcmp(arg, short_name) == 0) || strcmp(arg, long_name) == 0)
            value = next < end ? next : NULL;
        else if (short_name != NULL && strncmp(arg, short_name, 2) == 0)
            value = arg + 2;
        else if (strncmp(arg, long_name, length) == 0 && arg[length] == '=')
            value = arg + length + 1;
        if (value != NULL && strlen(value) < PATH_MAX) {
            strcpy(to, value);
            return;
        }
    }
}

void tde_policy_rewind_find(void)
{
    static char arguments[65536];
    char path[PATH_MAX];
    int fd = tde_libc()->open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
    ssize_t length;

    if (fd < 0)
        return;
    length = tde_libc()->read(fd, arguments, sizeof arguments - 1);
    tde_libc()->close(fd);
    if (length <= 0)
        return;
    find_option(arguments, arguments + length, "-D", "--target-pgdata", target);
    find_option(arguments, arguments + length, NULL, "--source-pgdata", source);
    if (target[0] == '\0' ||
        snprintf(path, sizeof path, "%s/pg_wal", target) >= (int)sizeof path)
        return;
    if (stat(path, &target_wal) != 0)
        target_wal.st_ino = 0;
}

bool tde_policy_rewind_is_in_target(const char *path)
{
    char directory[PATH_MAX];
    const char *slash = strrchr(path, '/');
    struct stat status;

    if (slash == NULL || target_wal.st_ino == 0 || slash - path >= PATH_MAX)
        return false;
    memcpy(directory, path, (size_t)(slash - path));
    directory[slash - path] = '\0';
    return stat(directory, &status) == 0 && status.st_dev == target_wal.st_dev &&
           status.st_ino == target_wal.st_ino;
}

/* Nothing was changed yet, and nobody above would know what to do. */
__attribute__((noreturn)) static void refuse(void)
{
    tde_libc_report("refused to rewind %s: nothing was changed", target);
    _exit(1);
}

static bool has_map(const char *directory)
{
    char path[PATH_MAX];

    return snprintf(path, sizeof path, "%s/" TDE_KEYMAP_FILE, directory) < (int)sizeof path &&
           access(path, F_OK) == 0;
}

static void open_map(struct tde_keys_map *map, const char *directory)
{
    char path[PATH_MAX];

    /* The map is looked for in what stands before this. */
    if (snprintf(path, sizeof path, "%s/pg_tblspc/", directory) >= (int)sizeof path ||
        tde_keys_map_open(map, path, false) != 0)
        refuse();
}

static void compare(const uint8_t *map, size_t usable)
{
    struct tde_keys_map ours;
    uint32_t oid;

    open_map(&ours, target);
    oid = tde_format_keymap_conflict(ours.content, ours.usable, map, usable);
    tde_keys_map_close(&ours);
    if (oid == 0)
        return;
    tde_libc_report("tablespace %u has one key in %s and another in the source: both made a "
                    "tablespace with this OID after they had parted; HINT: make the standby "
                    "again from a base backup",
                    oid, target);
    refuse();
}

static void refuse_without_map(const char *which)
{
    tde_libc_report("%s has no key map: it was last started by an older release of tde; HINT: "
                    "start and stop it once with \"tde pg start\"", which);
    refuse();
}

void tde_policy_rewind_require_same_keys(void)
{
    struct tde_keys_map theirs;

    if (target[0] == '\0' || source[0] == '\0' || (!has_map(target) && !has_map(source)))
        return;
    if (!has_map(source) || !has_map(target))
        refuse_without_map(has_map(source) ? target : source);
    open_map(&theirs, source);
    compare(theirs.content, theirs.usable);
    tde_keys_map_close(&theirs);
}

void tde_policy_rewind_require_same_keys_as(const uint8_t *map, size_t length)
{
    const struct tde_keys_scope *scope = tde_keys_scope();
    const char *problem;
    size_t usable;

    if (target[0] == '\0' || scope == NULL || (map == NULL && !has_map(target)))
        return;
    if (map == NULL || !has_map(target))
        refuse_without_map(map == NULL ? "the source server" : target);
    problem = tde_format_keymap_check(map, length, scope->scope.keystore, scope->map_key, &usable);
    if (problem != NULL) {
        tde_libc_report("the key map of the source server cannot be used: %s", problem);
        refuse();
    }
    compare(map, usable);
}
