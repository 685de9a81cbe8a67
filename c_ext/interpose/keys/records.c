/*
 * keys/records.c - see keys/records.h.
 */
#include "interpose/keys/records.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "crypto/cipher.h"
#include "crypto/primitives.h"
#include "interpose/keys/slots.h"
#include "interpose/libc/report.h"
#include "interpose/libc/symbols.h"
#include "interpose/libc/transfer.h"

#define NAME_SIZE 64 /* "wal.", a number, 32 digits and ".key" */
#define PATH_SIZE (TDE_HANDOVER_PATH_MAX + 64)

bool tde_keys_records_blame(void)
{
    switch (errno) {
    case EMFILE:
    case ENFILE:
    case ENOMEM:
    case ENOSPC:
    case EDQUOT:
    case EINTR:
        return false;
    default:
        errno = ENOKEY;
        return true;
    }
}

const char *const tde_keys_records_directories[TDE_KEYS_DIRECTORIES] = {"keys", "keys.new",
                                                                        "keys.old", "keys"};

static void path_of(const char *directory, const char *name, char path[PATH_SIZE])
{
    snprintf(path, PATH_SIZE, "%s/%s/%s", tde_keys_scope()->keystore, directory, name);
}

static void name_by_owner(enum tde_key_owner owner, uint32_t oid, char name[NAME_SIZE])
{
    if (owner == TDE_OWNER_WAL)
        strcpy(name, "wal.key");
    else if (owner == TDE_OWNER_OTHER_TABLESPACES)
        strcpy(name, "other.key");
    else
        snprintf(name, NAME_SIZE, "%u.key", oid);
}

static void name_by_id(const uint8_t key_id[TDE_UUID_SIZE], char name[NAME_SIZE])
{
    tde_format_keymap_hex(key_id, name);
    strcat(name, ".key");
}

/* One byte more than a record is read, so that a file that is too long is noticed. */
static ssize_t read_file(const char *path, uint8_t record[TDE_KEYRECORD_LONGEST + 1])
{
    int fd = tde_libc()->open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    ssize_t length;
    int saved;

    if (fd < 0)
        return -1;
    length = tde_libc_read_fully(fd, record, TDE_KEYRECORD_LONGEST + 1, 0);
    saved = errno;
    tde_libc()->close(fd);
    errno = saved;
    return length;
}

/* The master key of a record, NULL when it has another one than those of this server. */
static const struct tde_key_scope *master_of(const uint8_t *record, ssize_t length)
{
    const uint8_t *id = length < 0 ? NULL : tde_format_keyrecord_master(record, (size_t)length);

    return id == NULL ? NULL : tde_keys_slots_master(id);
}

static bool is_of_this_keystore(const uint8_t *record, ssize_t length)
{
    const uint8_t *id = length < 0 ? NULL : tde_format_keyrecord_keystore(record, (size_t)length);

    return id != NULL &&
           memcmp(id, tde_keys_scope()->scope.keystore, TDE_UUID_SIZE) == 0;
}

/*
 * Read a record where it is wrapped with a master key of this server, and else as it is in the
 * usual directory.  Its length, or -1 with errno.
 */
static ssize_t find_record(const char *name, char path[PATH_SIZE],
                           uint8_t record[TDE_KEYRECORD_LONGEST + 1])
{
    ssize_t length = -1;

    for (size_t i = 0; i < TDE_KEYS_DIRECTORIES; i++) {
        path_of(tde_keys_records_directories[i], name, path);
        length = read_file(path, record);
        if (master_of(record, length) != NULL || (length < 0 && errno != ENOENT))
            break;
    }
    return length;
}

/* As tde_keys_records_read, by the name of the file. */
static int read_record(const char *name, enum tde_key_owner owner, uint32_t oid,
                       const uint8_t *key_id, bool reports, struct tde_key *key)
{
    uint8_t record[TDE_KEYRECORD_LONGEST + 1];
    const struct tde_key_scope *scope;
    char path[PATH_SIZE];
    const char *problem;
    ssize_t length;

    memset(key, 0, sizeof *key);
    length = find_record(name, path, record);
    if (length < 0 && errno == ENOENT)
        return -1;
    if (length < 0) {
        int cause = errno;

        if (tde_keys_records_blame() && reports)
            tde_libc_report("could not read key file %s: %s", path, strerror(cause));
        return -1;
    }
    scope = master_of(record, length);
    if (scope == NULL && is_of_this_keystore(record, length)) {
        if (reports)
            tde_libc_report("could not use key file %s: it is wrapped with another master key than "
                            "this server has; HINT: if the master key was rotated, run tde "
                            "keystore rotate again or restart the server; otherwise move this "
                            "file away, and bring its key with tde keystore copy", path);
        errno = ENOKEY;
        return -1;
    }
    if (scope == NULL)
        scope = &tde_keys_scope()->scope; /* It names what is wrong. */
    problem = key_id == NULL ? tde_format_keyrecord_unwrap(record, (size_t)length, scope, owner,
                                                           oid, key)
                             : tde_format_keyrecord_unwrap_named(record, (size_t)length, scope,
                                                                 owner, oid, key_id, key);
    if (problem == NULL)
        return 0;
    if (reports)
        tde_libc_report("could not use key file %s: %s; HINT: move it away, and bring it from a "
                        "backup of the keystore: tde keystore copy BACKUP %s",
                        path, problem, tde_keys_scope()->keystore);
    errno = ENOKEY;
    return -1;
}

int tde_keys_records_read(enum tde_key_owner owner, uint32_t oid, struct tde_key *key)
{
    char name[NAME_SIZE];

    name_by_owner(owner, oid, name);
    return read_record(name, owner, oid, NULL, true, key);
}

static int derive(uint32_t oid, bool reports, struct tde_key *key)
{
    if (tde_keys_scope()->other.algorithm != TDE_ALGORITHM_PLAINTEXT &&
        tde_format_keyrecord_derive(&tde_keys_scope()->other, oid, key) == 0)
        return 0;
    if (reports)
        tde_libc_report("the key of tablespace %u cannot be derived: there is no key file "
                        "%s/keys/other.key; HINT: bring it from a backup of the keystore: tde "
                        "keystore copy BACKUP %s",
                        oid, tde_keys_scope()->keystore, tde_keys_scope()->keystore);
    errno = ENOKEY;
    return -1;
}

/* Whether a file is there in one of the directories; false with errno otherwise. */
static bool exists(const char *name)
{
    char path[PATH_SIZE];
    bool found = false;

    for (size_t i = 0; !found && i < TDE_KEYS_DIRECTORIES; i++) {
        path_of(tde_keys_records_directories[i], name, path);
        found = access(path, F_OK) == 0;
        if (!found && errno != ENOENT)
            break;
    }
    return found;
}

/* Every keystore has the key of WAL, so one without it is empty, or is not there. */
static bool is_there(void)
{
    return exists("wal.key");
}

static void report_missing(uint32_t oid, const char *name)
{
    const char *keystore = tde_keys_scope()->keystore;

    if (is_there())
        tde_libc_report("the key of tablespace %u is missing: there is no key file %s/keys/%s; "
                        "HINT: bring it from a backup of the keystore, or on a standby from a copy "
                        "of the primary's keystore: tde keystore copy BACKUP %s; then start the "
                        "server again if it has stopped",
                        oid, keystore, name, keystore);
    else
        tde_libc_report("the key of tablespace %u cannot be read: there is no keystore at %s; "
                        "HINT: mount its file system, or put the directory back; then start the "
                        "server again if it has stopped",
                        oid, keystore);
}

int tde_keys_records_resolve(const struct tde_keymap_entry *entry, bool reports,
                             struct tde_key *key)
{
    char name[NAME_SIZE];
    bool named = tde_format_keymap_has_id(entry);

    if (entry->kind == TDE_KEYMAP_DERIVED)
        return derive(entry->oid, reports, key);
    if (named)
        name_by_id(entry->key_id, name);
    else
        name_by_owner(TDE_OWNER_TABLESPACE, entry->oid, name);
    if (read_record(name, named ? TDE_OWNER_NAMED : TDE_OWNER_TABLESPACE, named ? 0 : entry->oid,
                    named ? entry->key_id : NULL, reports, key) == 0)
        return 0;
    if (errno == ENOENT && reports)
        report_missing(entry->oid, name);
    tde_keys_records_blame();
    return -1;
}

static void name_of_wal(const struct tde_wal_record *record, char name[NAME_SIZE])
{
    char digits[TDE_KEYMAP_HEX];

    tde_format_keymap_hex(record->key_id, digits);
    snprintf(name, NAME_SIZE, "wal.%" PRIu32 ".%s.key", record->number, digits);
}

/* Only what is written as tde writes it: not wal.02., nor anything behind it. */
static bool parse_wal_name(const char *name, struct tde_wal_record *record)
{
    char again[NAME_SIZE];
    char digits[2 * TDE_UUID_SIZE + 1];

    memset(record, 0, sizeof *record);
    if (sscanf(name, "wal.%" SCNu32 ".%32[0-9a-f].key", &record->number, digits) != 2 ||
        record->number < 2 || !tde_format_keymap_parse_hex(digits, record->key_id))
        return false;
    name_of_wal(record, again);
    return strcmp(again, name) == 0;
}

/* Add what is in a directory to LIST, in which *COUNT are already.  0, or -1 with errno. */
static int list_directory(const char *name, struct tde_wal_record *list, size_t *count,
                          size_t most)
{
    const struct dirent *found;
    char path[PATH_SIZE];
    DIR *directory;

    path_of(name, "", path);
    directory = opendir(path);
    if (directory == NULL)
        return errno == ENOENT ? 0 : -1;
    while (*count < most && (found = readdir(directory)) != NULL) {
        bool known = false;

        if (!parse_wal_name(found->d_name, &list[*count]))
            continue;
        for (size_t i = 0; i < *count && !known; i++)
            known = memcmp(list[i].key_id, list[*count].key_id, TDE_UUID_SIZE) == 0;
        *count += known ? 0 : 1;
    }
    closedir(directory);
    return 0;
}

int tde_keys_records_list_wal(struct tde_wal_record *list, size_t most, size_t *count)
{
    *count = 0;
    for (size_t i = 0; i < TDE_KEYS_DIRECTORIES; i++)
        if (list_directory(tde_keys_records_directories[i], list, count, most) != 0) {
            int cause = errno;

            tde_libc_report("could not look into the keystore at %s/%s: %s",
                            tde_keys_scope()->keystore, tde_keys_records_directories[i], strerror(cause));
            errno = cause;
            return -1;
        }
    return 0;
}

int tde_keys_records_read_wal(const struct tde_wal_record *record, struct tde_key *key)
{
    char name[NAME_SIZE];

    name_of_wal(record, name);
    return read_record(name, TDE_OWNER_LATER_WAL, record->number, record->key_id, true, key);
}

int tde_keys_records_has(uint32_t oid)
{
    char name[NAME_SIZE];

    name_by_owner(TDE_OWNER_TABLESPACE, oid, name);
    if (exists(name))
        return 1;
    /* A keystore that is not mounted has no files at all, so its absence says nothing. */
    if (errno == ENOENT && is_there())
        return 0;
    int cause = errno;

    if (tde_keys_records_blame())
        tde_libc_report("could not look into the keystore at %s/keys: %s",
                        tde_keys_scope()->keystore, strerror(cause));
    return -1;
}

/*
 * XTS with two equal halves is not secure (FIPS 140 requires the check).  By chance it happens once
 * in 2^128 keys, so a repetition means a broken generator.
 */
static int fill(struct tde_key *key, int algorithm)
{
    size_t half = tde_crypto_key_size(algorithm) / 2;

    memset(key, 0, sizeof *key);
    key->algorithm = algorithm;
    if (algorithm == TDE_ALGORITHM_PLAINTEXT)
        return 0;
    if (half == 0 || tde_crypto_random(key->bytes, 2 * half) != 0)
        return -1;
    return memcmp(key->bytes, key->bytes + half, half) == 0 ? -1 : 0;
}

int tde_keys_records_make(int algorithm, uint8_t record[TDE_KEYRECORD_NAMED_SIZE])
{
    const struct tde_key_scope *master = tde_keys_slots_newest_master();
    /* Random nonces of 96 bits: a keystore has a few thousand records under one master key. */
    uint8_t nonce[TDE_GCM_NONCE_SIZE];
    uint8_t key_id[TDE_UUID_SIZE];
    struct tde_key again;
    struct tde_key key;
    int result = -1;

    if (tde_crypto_random(key_id, sizeof key_id) == 0 &&
        tde_crypto_random(nonce, sizeof nonce) == 0 && fill(&key, algorithm) == 0) {
        key_id[6] = (uint8_t)((key_id[6] & 0x0F) | 0x40); /* A UUID of version 4, as Python's. */
        key_id[8] = (uint8_t)((key_id[8] & 0x3F) | 0x80);
        result = tde_format_keyrecord_wrap_named(master, key_id, &key, nonce, record);
    }
    /* A bit that flips in memory must not cost a key. */
    if (result == 0 &&
        (tde_format_keyrecord_unwrap_named(record, TDE_KEYRECORD_NAMED_SIZE, master,
                                           TDE_OWNER_NAMED, 0, key_id, &again) != NULL ||
         !tde_crypto_equal(again.bytes, key.bytes, sizeof key.bytes)))
        result = -1;
    tde_crypto_wipe(&again, sizeof again);
    tde_crypto_wipe(&key, sizeof key);
    return result;
}
