/*
 * program/upgrade.c - see program/upgrade.h.
 *
 * pg_upgrade copies the files of one cluster into another as they are, so both must have the same
 * keys.  It repeats CREATE TABLESPACE, but the location does not always say which key the files
 * there have: a tablespace may have been moved since.  The old cluster's map says it.
 */
#include "program/upgrade.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "crypto/primitives.h"
#include "format/constants.h"
#include "format/handover.h"
#include "format/keymap.h"
#include "program/data_directory.h"
#include "program/keys.h"

struct clusters {
    const char *old;
    const char *new;
    bool only_checks;
};

/* A map in memory, and the file that it was read from. */
struct map {
    int fd;
    uint8_t *content;
    size_t usable;
};

static const char *variable(const char *name)
{
    const char *value = getenv(name);

    return value == NULL || *value == '\0' ? NULL : value;
}

/* The options of pg_upgrade of PostgreSQL 15 to 19. */
static int find_clusters(int argc, char *const argv[], struct clusters *clusters)
{
    static const struct option options[] = {
        {"old-datadir", required_argument, NULL, 'd'},
        {"new-datadir", required_argument, NULL, 'D'},
        {"old-bindir", required_argument, NULL, 0},
        {"new-bindir", required_argument, NULL, 0},
        {"old-options", required_argument, NULL, 0},
        {"new-options", required_argument, NULL, 0},
        {"old-port", required_argument, NULL, 0},
        {"new-port", required_argument, NULL, 0},
        {"username", required_argument, NULL, 0},
        {"socketdir", required_argument, NULL, 0},
        {"jobs", required_argument, NULL, 0},
        {"sync-method", required_argument, NULL, 0},
        {"set-char-signedness", required_argument, NULL, 0},
        {"check", no_argument, NULL, 'c'},
        {"clone", no_argument, NULL, 0},
        {"copy", no_argument, NULL, 0},
        {"copy-file-range", no_argument, NULL, 0},
        {"link", no_argument, NULL, 0},
        {"swap", no_argument, NULL, 0},
        {"no-sync", no_argument, NULL, 0},
        {"no-statistics", no_argument, NULL, 0},
        {"retain", no_argument, NULL, 0},
        {"verbose", no_argument, NULL, 0},
        {0},
    };
    /* getopt moves arguments; the program must see them in their order. */
    char **copy = calloc((size_t)argc + 1, sizeof *copy);
    int option;

    if (copy == NULL)
        return -1;
    memcpy(copy, argv, (size_t)argc * sizeof *copy);
    *clusters = (struct clusters){variable("PGDATAOLD"), variable("PGDATANEW"), false};
    opterr = 0;
    optind = 0; /* Let getopt start anew. */
    while ((option = getopt_long(argc, copy, "b:B:cd:D:j:kNo:O:p:P:rs:U:v", options, NULL)) !=
           -1) {
        if (option == 'd')
            clusters->old = optarg;
        else if (option == 'D')
            clusters->new = optarg;
        else if (option == 'c')
            clusters->only_checks = true;
    }
    free(copy);
    return 0;
}

static int report(const struct tde_program_settings *settings, const char *directory,
                  const char *problem)
{
    tde_program_error(settings->program,
                      "Restore " TDE_KEYMAP_FILE " from " TDE_KEYMAP_SOURCE ".",
                      "the key map %s/" TDE_KEYMAP_FILE " cannot be used: %s", directory, problem);
    return -1;
}

static void close_map(struct map *map)
{
    if (map->fd >= 0)
        close(map->fd);
    free(map->content);
    *map = (struct map){.fd = -1};
}

/* Read a map, with room for MORE entries behind it. */
static int open_map(const struct tde_program_settings *settings, const char *directory, int flags,
                    size_t more, const uint8_t keystore[TDE_UUID_SIZE],
                    const uint8_t key[TDE_KEYMAP_KEY_SIZE], struct map *map)
{
    char path[PATH_MAX];
    const char *problem;
    struct stat status;

    if (tde_program_path(path, directory, TDE_KEYMAP_FILE) != 0)
        return report(settings, directory, "its path is too long");
    map->fd = open(path, flags | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (map->fd < 0 || fstat(map->fd, &status) != 0)
        return report(settings, directory, strerror(errno));
    if (!S_ISREG(status.st_mode))
        return report(settings, directory, "it is not a regular file");
    if (status.st_size > (off_t)TDE_KEYMAP_LONGEST)
        return report(settings, directory, "it is too long");
    map->content = calloc((size_t)status.st_size + (more + 1) * TDE_KEYMAP_UNIT, 1);
    if (map->content == NULL)
        return report(settings, directory, strerror(errno));
    if (pread(map->fd, map->content, (size_t)status.st_size, 0) != status.st_size)
        return report(settings, directory, "it could not be read");
    problem = tde_format_keymap_check(map->content, (size_t)status.st_size, keystore, key,
                                      &map->usable);
    return problem == NULL ? 0 : report(settings, directory, problem);
}

static bool is_linked(const char *directory, uint32_t oid)
{
    char path[PATH_MAX];
    struct stat status;

    return snprintf(path, sizeof path, "%s/pg_tblspc/%u", directory, oid) < (int)sizeof path &&
           lstat(path, &status) == 0;
}

/* Whether a map gives a tablespace the key of ENTRY. */
static bool says(const struct map *map, const struct tde_keymap_entry *entry)
{
    struct tde_keymap_entry found;

    return (tde_format_keymap_find(map->content, map->usable, entry->oid, &found) ||
            tde_format_keymap_built_in(entry->oid, &found)) &&
           found.kind == entry->kind &&
           memcmp(found.key_id, entry->key_id, sizeof found.key_id) == 0;
}

/*
 * Put an entry of the old map behind the new one, in memory.  Those that count no more go along:
 * they say which location names a key that a rekey has replaced.
 */
static int take_over(const struct tde_program_settings *settings, const struct clusters *clusters,
                     const uint8_t key[TDE_KEYMAP_KEY_SIZE],
                     const struct tde_keymap_entry *entry, struct map *to)
{
    if (!tde_format_keymap_is_of_wal(entry) && is_linked(clusters->new, entry->oid)) {
        tde_program_error(settings->program, "Create the new cluster again, with initdb.",
                          "tablespace %u has another key in %s than in %s", entry->oid,
                          clusters->new, clusters->old);
        return -1;
    }
    if (tde_format_keymap_append(to->content + to->usable - TDE_KEYMAP_UNIT, key, entry,
                                 to->content + to->usable) != 0)
        return report(settings, clusters->new, "it could not be authenticated");
    to->usable += TDE_KEYMAP_UNIT;
    return 0;
}

/*
 * Files of the old cluster's databases come to lie beside those of the new one, where they have the
 * key that the new map says.  What lies in pg_global is made anew.
 */
static int require_same_default(const struct tde_program_settings *settings,
                                const struct clusters *clusters, const struct map *from,
                                const struct map *to)
{
    struct tde_keymap_entry entry;
    char hint[3 * PATH_MAX];

    if (!tde_format_keymap_find(from->content, from->usable, TDE_DEFAULT_TABLESPACE, &entry))
        tde_format_keymap_built_in(TDE_DEFAULT_TABLESPACE, &entry);
    if (says(to, &entry))
        return 0;
    snprintf(hint, sizeof hint,
             "Give the new cluster, which is still empty, the key of the old one: tde tablespace "
             "rekey pg_default -D %s --same-keys-as %s", clusters->new, clusters->old);
    tde_program_error(settings->program, hint,
                      "tablespace pg_default has another key in %s than in %s", clusters->new,
                      clusters->old);
    return -1;
}

/* What an append of a server has left behind the last whole entry is cut off first. */
static int store(const struct tde_program_settings *settings, const char *directory,
                 const struct map *map, size_t stored)
{
    size_t length = map->usable - stored;

    if (length == 0 ||
        (ftruncate(map->fd, (off_t)stored) == 0 &&
         pwrite(map->fd, map->content + stored, length, (off_t)stored) == (ssize_t)length &&
         fsync(map->fd) == 0))
        return 0;
    return report(settings, directory, strerror(errno));
}

static int carry_map(const struct tde_program_settings *settings, const struct clusters *clusters)
{
    struct map from = {.fd = -1};
    struct map to = {.fd = -1};
    uint8_t key[TDE_KEYMAP_KEY_SIZE];
    uint8_t keystore[TDE_UUID_SIZE];
    size_t stored;
    size_t count;
    int result = tde_program_map_key(settings, keystore, key);

    if (result == 0)
        result = open_map(settings, clusters->old, O_RDONLY, 0, keystore, key, &from);
    count = result == 0 ? tde_format_keymap_count(from.usable) : 0;
    if (result == 0)
        result = open_map(settings, clusters->new, O_RDWR, count, keystore, key, &to);
    stored = to.usable;
    if (result == 0)
        result = require_same_default(settings, clusters, &from, &to);
    for (size_t number = 0; result == 0 && number < count; number++) {
        struct tde_keymap_entry entry;
        struct tde_keymap_entry counts;

        tde_format_keymap_entry(from.content, number, &entry);
        /* A tablespace that was dropped may have left its OID to another one. */
        if ((tde_format_keymap_is_of_wal(&entry) || is_linked(clusters->old, entry.oid)) &&
            tde_format_keymap_find(from.content, from.usable, entry.oid, &counts) &&
            !says(&to, &counts))
            result = take_over(settings, clusters, key, &entry, &to);
    }
    if (result == 0 && !clusters->only_checks)
        result = store(settings, clusters->new, &to, stored);
    tde_crypto_wipe(key, sizeof key);
    close_map(&from);
    close_map(&to);
    return result;
}

int tde_program_upgrade_keys(const struct tde_program_settings *settings, int argc,
                             char *const argv[])
{
    enum tde_cluster_state old_state;
    enum tde_cluster_state new_state;
    struct clusters clusters;
    char old_data[PATH_MAX];
    char new_data[PATH_MAX];

    if (find_clusters(argc, argv, &clusters) != 0)
        return -1;
    if (clusters.old == NULL || clusters.new == NULL)
        return 0; /* pg_upgrade will say so. */
    clusters.old = tde_program_data_directory(clusters.old, old_data);
    clusters.new = tde_program_data_directory(clusters.new, new_data);
    old_state = tde_program_cluster_state(settings, clusters.old);
    new_state = tde_program_cluster_state(settings, clusters.new);
    if (old_state == TDE_CLUSTER_UNUSABLE || new_state == TDE_CLUSTER_UNUSABLE)
        return -1;
    if (old_state != new_state) {
        bool old_is_plain = old_state == TDE_CLUSTER_PLAIN;

        tde_program_error(settings->program,
                          "Both need the same keystore: encrypt or decrypt one of them first, with "
                          "\"tde pg encrypt\" or \"tde pg decrypt\".",
                          "the cluster in %s is not encrypted, and that in %s is: the upgraded "
                          "cluster could not be read",
                          old_is_plain ? clusters.old : clusters.new,
                          old_is_plain ? clusters.new : clusters.old);
        return -1;
    }
    if (old_state == TDE_CLUSTER_PLAIN)
        return 0;
    if (carry_map(settings, &clusters) != 0)
        return -1;
    return setenv(TDE_UPGRADE_VARIABLE, "1", 1) == 0 ? 1 : -1;
}
