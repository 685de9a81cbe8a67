/*
 * policy/announced.c - see policy/announced.h.
 */
#include "interpose/policy/announced.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "interpose/keys/map.h"
#include "interpose/keys/present.h"
#include "interpose/keys/ring.h"
#include "interpose/keys/slots.h"
#include "interpose/libc/process.h"
#include "interpose/libc/report.h"
#include "interpose/libc/symbols.h"
#include "interpose/libc/transfer.h"
#include "interpose/policy/keystore.h"
#include "interpose/policy/process.h"
#include "interpose/policy/role.h"
#include "interpose/policy/walsender.h"

#define LIST_CHARACTERS "0123456789abcdefmorwl,"
/* What needs no quoting in the options of a connection, in a shell and in the file. */
#define PATH_CHARACTERS "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789/._-"
#define LONGEST_DIRECTORY 512
#define PLACE_CHARACTERS "0123456789abcdef.-"
#define PLACE_SIZE 80
#define FILE_SIZE (TDE_PRESENT_SIZE + LONGEST_DIRECTORY + PLACE_SIZE + 64)

static bool is_made_of(const char *text, const char *characters, size_t most)
{
    size_t length = strspn(text, characters);

    return text[length] == '\0' && length < most;
}

/*
 * What only the same directory on the same machine has, containers included: the boot of the kernel,
 * the device and the number of the file.  "" when it cannot be known.
 */
static void place_of(const char *directory, char place[PLACE_SIZE])
{
    char boot[37] = "";
    struct stat status;
    int fd = tde_libc()->open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);

    place[0] = '\0';
    if (fd < 0)
        return;
    if (read(fd, boot, sizeof boot - 1) == (ssize_t)sizeof boot - 1 &&
        stat(directory, &status) == 0)
        snprintf(place, PLACE_SIZE, "%s.%jx.%jx", boot, (uintmax_t)status.st_dev,
                 (uintmax_t)status.st_ino);
    tde_libc()->close(fd);
}

/* A keystore that cannot be read now has no list, which is not the same as an empty one. */
static void add_keys(char *to, size_t size)
{
    char list[TDE_PRESENT_SIZE];
    const char *directory = tde_keys_scope()->keystore;
    char place[PLACE_SIZE];
    int length;

    if (tde_policy_role() == TDE_ROLE_WAL_RECEIVER) {
        snprintf(to, size, " -c " TDE_ANNOUNCED_KEYS_SETTING "=" TDE_ANNOUNCED_WAL_ONLY);
        return;
    }
    if (!tde_keys_present(list))
        return;
    place_of(directory, place);
    length = snprintf(to, size, " -c " TDE_ANNOUNCED_KEYS_SETTING "=%s -c "
                      TDE_ANNOUNCED_PLACE_SETTING "=%s", list, place);
    if (is_made_of(directory, PATH_CHARACTERS, LONGEST_DIRECTORY))
        snprintf(to + length, size - (size_t)length,
                 " -c " TDE_ANNOUNCED_DIRECTORY_SETTING "=%s", directory);
}

const char *tde_policy_announced_options(void)
{
    static char *options;
    char keys[FILE_SIZE + 128] = "";

    if (options != NULL)
        return options;
    add_keys(keys, sizeof keys);
    if (asprintf(&options, TDE_WALSENDER_OPTION " -c " TDE_WALSENDER_KEYSTORE_SETTING "=%s -c "
                 TDE_WALSENDER_PROOF_SETTING "=%s%s",
                 tde_policy_keystore_uuid(), tde_policy_keystore_proof(), keys) < 0)
        options = NULL;
    return options;
}

/* NULL when it was not said.  Anybody may set it to anything; what is not as above does not count. */
static const char *said(const char *setting, const char *characters, size_t most)
{
    const char *value = tde_policy_process_setting(setting);

    return value != NULL && is_made_of(value, characters, most) ? value : NULL;
}

/*
 * Remove the files of walsenders that are no more, so that there are never more than there were
 * connections at once.  DIRECTORY is closed.
 */
static void forget_others(int directory)
{
    static const char prefix[] = TDE_ANNOUNCED_FILE;
    const struct dirent *found;
    DIR *entries = fdopendir(directory);

    if (entries == NULL) {
        tde_libc()->close(directory);
        return;
    }
    while ((found = readdir(entries)) != NULL) {
        char *end;
        long pid;

        if (strncmp(found->d_name, prefix, strlen(prefix)) != 0)
            continue;
        pid = strtol(found->d_name + strlen(prefix), &end, 10);
        if (*end == '\0' && pid > 0 && pid <= 1 << 30 && kill((pid_t)pid, 0) != 0 &&
            errno == ESRCH)
            unlinkat(dirfd(entries), found->d_name, 0);
    }
    closedir(entries);
}

/* The last line says whose note it is.  False after a report. */
static bool write_note(int directory, const char *keys)
{
    const char *place = said(TDE_ANNOUNCED_PLACE_SETTING, PLACE_CHARACTERS, PLACE_SIZE);
    const char *keystore =
        said(TDE_ANNOUNCED_DIRECTORY_SETTING, PATH_CHARACTERS, LONGEST_DIRECTORY);
    char name[sizeof TDE_ANNOUNCED_FILE + 16];
    char text[FILE_SIZE] = "";
    int length = keys == NULL ? 0 : snprintf(text, sizeof text, "keys=%s\n", keys);
    bool is_written = false;
    int fd;

    length += snprintf(text + length, sizeof text - (size_t)length,
                       "directory=%s\nplace=%s\nstarted=%" PRIu64 "\n",
                       keystore == NULL || keystore[0] != '/' ? "" : keystore,
                       place == NULL ? "" : place, tde_libc_start_time());
    snprintf(name, sizeof name, TDE_ANNOUNCED_FILE "%ld", (long)getpid());
    unlinkat(directory, name, 0); /* Of another process of the same number. */
    fd = tde_libc()->openat(directory, name,
                            O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd >= 0) {
        is_written = tde_libc_write_fully(fd, text, (size_t)length, 0) == (size_t)length;
        tde_libc()->close(fd);
    }
    if (!is_written)
        tde_libc_report("could not note in " TDE_ANNOUNCED_PLACE "/%s which keys a standby has: %s",
                        name, strerror(errno));
    return is_written;
}

/*
 * A server's processes work in its data directory.  A link in the place of the directory is not
 * followed: it could lead into the keystore.
 */
static bool note(const char *keys)
{
    int directory = tde_libc()->open(TDE_ANNOUNCED_PLACE,
                                     O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    bool is_written;

    if (directory < 0) {
        tde_libc_report("could not note which keys a standby has: " TDE_ANNOUNCED_PLACE ": %s; "
                        "HINT: it must be a directory of the server's user, and no link",
                        strerror(errno));
        return false;
    }
    is_written = write_note(directory, keys);
    forget_others(directory);
    return is_written;
}

/* Whether the entry with a number is one that a standby of this cluster may come to need. */
static bool counts(const struct tde_keys_map *map, size_t number, struct tde_keymap_entry *entry)
{
    struct tde_keymap_entry last;

    tde_format_keymap_entry(map->content, number, entry);
    /* Pages of a standby keep their keys when its primary is rekeyed. */
    return tde_format_keymap_has_id(entry) && entry->kind != TDE_KEYMAP_WAL_READ &&
           entry->kind != TDE_KEYMAP_REKEYED &&
           tde_format_keymap_find(map->content, map->usable, entry->oid, &last) &&
           memcmp(last.key_id, entry->key_id, sizeof last.key_id) == 0 &&
           (tde_format_keymap_is_of_wal(entry) || tde_keys_map_is_linked(map, entry->oid));
}

static void report_missing(const char *keys)
{
    const char *name = tde_policy_process_setting("application_name");
    struct tde_keymap_entry entry;
    char digits[TDE_KEYMAP_HEX];
    char first[TDE_KEYMAP_HEX];
    struct tde_keys_map map;
    unsigned missing = 0;

    if (tde_keys_map_open(&map, NULL, false) != 0)
        return;
    for (size_t i = 0; i < tde_format_keymap_count(map.usable); i++) {
        if (!counts(&map, i, &entry))
            continue;
        tde_format_keymap_hex(entry.key_id, digits);
        if (tde_keys_present_has(keys, digits))
            continue;
        if (missing++ == 0)
            strcpy(first, digits);
    }
    tde_keys_map_close(&map);
    if (missing > 0)
        tde_libc_report("the keystore of the standby \"%.63s\" lacks %u of the keys that this "
                        "cluster uses, first of all %s: it stops where it needs one; HINT: tde "
                        "keystore sync brings them",
                        name == NULL ? "" : name, missing, first);
}

void tde_policy_announced_note(void)
{
    static pid_t noted;
    int saved = errno;
    const char *keys;

    if (noted == getpid())
        return;
    keys = said(TDE_ANNOUNCED_KEYS_SETTING, LIST_CHARACTERS, TDE_PRESENT_SIZE);
    /* What fails now, as where descriptors are short, may succeed with the next segment. */
    if (note(keys))
        noted = getpid();
    if (noted == getpid() && keys != NULL && strcmp(keys, TDE_ANNOUNCED_WAL_ONLY) != 0)
        report_missing(keys);
    errno = saved;
}
