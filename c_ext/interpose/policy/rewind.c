/*
 * policy/rewind.c - see policy/rewind.h.
 */
#include "interpose/policy/rewind.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
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

#define MOST_ARGUMENTS 256

/*
 * With getopt_long, as the program itself: an option may be abbreviated, or stand behind others in
 * one word, and what is read wrongly here would let directories with different keys pass.
 */
static void read_options(int count, char **arguments)
{
    static const struct option options[] = {
        {"target-pgdata", required_argument, NULL, 'D'},
        {"source-pgdata", required_argument, NULL, 's'},
        {"source-server", required_argument, NULL, 0},
        {"config-file", required_argument, NULL, 0},
        {"sync-method", required_argument, NULL, 0},
        {"write-recovery-conf", no_argument, NULL, 0},
        {"no-ensure-shutdown", no_argument, NULL, 0},
        {"restore-target-wal", no_argument, NULL, 0},
        {"dry-run", no_argument, NULL, 0},
        {"no-sync", no_argument, NULL, 0},
        {"progress", no_argument, NULL, 0},
        {"debug", no_argument, NULL, 0},
        {"help", no_argument, NULL, 0},
        {"version", no_argument, NULL, 0},
        {NULL, 0, NULL, 0},
    };
    int found;

    opterr = 0;
    while ((found = getopt_long(count, arguments, "cD:nNPR", options, NULL)) != -1) {
        char *to = found == 'D' ? target : found == 's' ? source : NULL;

        if (to != NULL && strlen(optarg) < PATH_MAX)
            strcpy(to, optarg);
    }
    opterr = 1;
    optind = 0; /* The program begins anew. */
}

void tde_policy_rewind_find(void)
{
    static char text[65536];
    static char *arguments[MOST_ARGUMENTS + 1];
    char path[PATH_MAX];
    int fd = tde_libc()->open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
    ssize_t length;
    int count = 0;

    if (fd < 0)
        return;
    length = tde_libc()->read(fd, text, sizeof text - 1);
    tde_libc()->close(fd);
    for (char *at = text; at < text + length && count < MOST_ARGUMENTS; at += strlen(at) + 1)
        arguments[count++] = at;
    read_options(count, arguments);
    if (target[0] == '\0' ||
        snprintf(path, sizeof path, "%s/pg_wal", target) >= (int)sizeof path)
        return;
    if (stat(path, &target_wal) != 0)
        target_wal.st_ino = 0;
}

const char *tde_policy_rewind_target(void)
{
    return target;
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
    tde_libc_report("tablespace %u has one key in %s and another in the source: one of them was "
                    "given another key (tde tablespace rekey), or both made a tablespace with this "
                    "OID after they had parted; HINT: after a rekey give the target the keys of "
                    "the source with \"tde tablespace rekey --all --same-keys-as MAP\", where MAP "
                    "is a copy of the source's " TDE_KEYMAP_FILE "; otherwise make the standby "
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
