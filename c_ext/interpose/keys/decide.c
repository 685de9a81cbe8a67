/*
 * keys/decide.c - see keys/decide.h.
 */
#include "interpose/keys/decide.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "crypto/cipher.h"
#include "crypto/primitives.h"
#include "interpose/keys/map.h"
#include "interpose/keys/records.h"
#include "interpose/keys/slots.h"
#include "interpose/libc/report.h"

struct decision {
    enum tde_keys_moment moment;
    const char *location;
    struct tde_keymap_entry entry; /* what is decided */
};

static int no_key(void)
{
    errno = ENOKEY;
    return -1;
}

/* Whether a tablespace exists; those that initdb makes have no link. */
static bool exists(const struct tde_keys_map *map, uint32_t oid)
{
    struct tde_keymap_entry built_in;

    return tde_format_keymap_built_in(oid, &built_in) || tde_keys_map_is_linked(map, oid);
}

/*
 * One key for two tablespaces would repeat tweaks: relfilenumbers are unique within one.  A key
 * that a rekey has replaced counts too, because backups have blocks that it was used for.
 */
static int require_unused(const struct tde_keys_map *map, const struct tde_keymap_entry *wanted)
{
    for (size_t number = tde_format_keymap_count(map->usable); number-- > 0;) {
        struct tde_keymap_entry other;

        tde_format_keymap_entry(map->content, number, &other);
        if (!tde_format_keymap_has_id(&other) || other.oid == wanted->oid ||
            memcmp(other.key_id, wanted->key_id, sizeof other.key_id) != 0 ||
            !exists(map, other.oid))
            continue;
        tde_libc_report("the key that the location names is that of tablespace %u, today's or an "
                        "earlier one; HINT: make tablespaces with \"tde tablespace create\", which "
                        "makes a key for each",
                        other.oid);
        return no_key();
    }
    return 0;
}

static int derive(struct decision *decision)
{
    decision->entry.kind = TDE_KEYMAP_DERIVED;
    if (tde_keys_scope()->other.algorithm != TDE_ALGORITHM_PLAINTEXT)
        return 0;
    tde_libc_report("refused to create tablespace %u without a key: only tablespaces that are made "
                    "with tde are encrypted in this cluster (scope tablespaces), and SQL cannot "
                    "say whether this one should be; HINT: use \"tde tablespace create\", with "
                    "--plaintext for a tablespace in plain text",
                    decision->entry.oid);
    return no_key();
}

/* A location that names no key: all nodes derive the same one. */
static int decide_unnamed(struct decision *decision, const struct tde_keymap_entry *before)
{
    int has;

    /* Recovery repeats what was decided when the record was written, on this node or another. */
    if (decision->moment != TDE_KEYS_COMMAND && before->kind != 0 &&
        before->kind != TDE_KEYMAP_NAMED) {
        decision->entry = *before;
        return 0;
    }
    has = tde_keys_records_has(decision->entry.oid);
    if (has < 0)
        return -1;
    if (has == 0)
        return derive(decision);
    if (decision->moment == TDE_KEYS_COMMAND) {
        /* A node that replays this could not tell it from one of a release before the map. */
        tde_libc_report("refused to create tablespace %u: the keystore has a key for another "
                        "tablespace with this OID; HINT: remove the empty directory that "
                        "PostgreSQL has made in the location, and repeat the command, which will "
                        "get another OID",
                        decision->entry.oid);
        errno = EEXIST;
        return -1;
    }
    decision->entry.kind = TDE_KEYMAP_RECORD;
    return 0;
}

/*
 * Whether WAL tells of the making of a tablespace that has got another key since, as a standby does
 * once more that was stopped for it.  Another tablespace that gets the same OID later has a
 * location that the map does not know.
 */
static bool was_rekeyed_since(const struct tde_keys_map *map, const struct decision *decision,
                              const struct tde_keymap_entry *before)
{
    if (decision->moment != TDE_KEYS_REPLAY || before->kind != TDE_KEYMAP_REKEYED)
        return false;
    for (size_t number = tde_format_keymap_count(map->usable); number-- > 0;) {
        struct tde_keymap_entry entry;

        tde_format_keymap_entry(map->content, number, &entry);
        if (entry.kind == TDE_KEYMAP_NAMED && entry.oid == decision->entry.oid &&
            memcmp(entry.key_id, decision->entry.key_id, sizeof entry.key_id) == 0)
            return true;
    }
    return false;
}

static int decide(const struct tde_keys_map *map, struct decision *decision)
{
    struct tde_keymap_entry before;
    bool is_directory = decision->location == NULL;
    /* In scope tablespaces the map never knew those that SQL has made. */
    bool knows_all = tde_keys_scope()->other.algorithm != TDE_ALGORITHM_PLAINTEXT;
    bool found = tde_format_keymap_find(map->content, map->usable, decision->entry.oid, &before);

    /*
     * A backup's link may be made to any place, an upgrade's leads where that of the old cluster
     * did, and recovery makes a directory for a tablespace that is dropped later on; the map knows
     * the key of all.
     */
    if (found && (decision->moment == TDE_KEYS_RESTORE || decision->moment == TDE_KEYS_UPGRADE ||
                  (is_directory && decision->moment == TDE_KEYS_REPLAY))) {
        decision->entry = before;
        return 0;
    }
    if (decision->moment == TDE_KEYS_COMMAND && knows_all &&
        tde_keys_map_require_complete(map) != 0)
        return -1;
    /*
     * The tablespace was there when the backup began, and in the map before that.  In an upgrade
     * its files exist, and program/upgrade.c was to carry the old cluster's map over.
     */
    if (decision->moment == TDE_KEYS_RESTORE || decision->moment == TDE_KEYS_UPGRADE)
        return tde_keys_map_refuse_unknown(map, decision->entry.oid);
    if (is_directory ||
        !tde_format_keymap_parse_location(decision->location, decision->entry.key_id))
        return decide_unnamed(decision, &before);
    if (was_rekeyed_since(map, decision, &before)) {
        decision->entry = before;
        return 0;
    }
    decision->entry.kind = TDE_KEYMAP_NAMED;
    /*
     * Recovery repeats what was asked when its record was written, and must not ask again: files
     * may be ahead of it, with another tablespace that got the key after this one was dropped.
     */
    return decision->moment == TDE_KEYS_REPLAY ? 0 : require_unused(map, &decision->entry);
}

static int load(const struct tde_keymap_entry *entry)
{
    struct tde_key key;
    int result = -1;

    if (tde_keys_slots_has(entry) || tde_keys_slots_revive(entry) >= 0)
        return 0;
    if (tde_keys_records_resolve(entry, true, &key) == 0 && tde_keys_slots_store(entry, &key) >= 0)
        result = 0;
    tde_crypto_wipe(&key, sizeof key);
    return result;
}

static bool is_recorded(const struct tde_keys_map *map, const struct tde_keymap_entry *entry)
{
    struct tde_keymap_entry before;

    return tde_format_keymap_find(map->content, map->usable, entry->oid, &before) &&
           before.kind == entry->kind &&
           memcmp(before.key_id, entry->key_id, sizeof before.key_id) == 0;
}

int tde_keys_decide(enum tde_keys_moment moment, const char *link, uint32_t oid,
                    const char *location, int *lock)
{
    struct decision decision = {moment, location, {.oid = oid}};
    struct tde_keys_map map;
    int result = -1;

    if (tde_keys_scope() == NULL) {
        tde_libc_report("refused to create tablespace %u: the keystore is not open", oid);
        return no_key();
    }
    if (tde_keys_map_open(&map, link, true) != 0)
        return -1;
    /* The key first: a decision that cannot be followed is not written down. */
    *lock = -1;
    if (decide(&map, &decision) == 0 && load(&decision.entry) == 0) {
        result = is_recorded(&map, &decision.entry) ? 0
                                                    : tde_keys_map_append(&map, &decision.entry);
        if (result != 0)
            tde_keys_slots_drop(oid);
    }
    if (result == 0) {
        *lock = map.fd;
        map.fd = -1;
    }
    tde_keys_map_close(&map);
    return result;
}
