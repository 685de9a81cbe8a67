/*
 * format/keymap.h - tde.keymap, which says what key each tablespace of a cluster has
 * (docs/format.md, section 7).  Pure: the caller has the file.
 * tde/postgres/cluster/keymap.py is the same in Python.
 *
 * The file only grows: a header and one entry for each decision, of which the last for an OID
 * counts.  Every entry is authenticated together with all before it, so a copy that ends too
 * early (a backup tool copies as many bytes as there were when it began) is an older map and
 * not a damaged one.
 */
#ifndef TDE_FORMAT_KEYMAP_H
#define TDE_FORMAT_KEYMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "format/keyrecord.h"

#define TDE_KEYMAP_FILE "tde.keymap"
/* Where a map that was lost comes from: a rekey replaces keys, and each node has its own. */
#define TDE_KEYMAP_SOURCE                                                                          \
    "the newest base backup of this server, made after its last tde tablespace rekey"
#define TDE_MARKER_FILE "tde.json" /* beside it */
#define TDE_MARKER_LIMIT 8192u     /* bytes, far more than it has */
#define TDE_KEYMAP_UNIT 64u /* of the header, and of an entry */
#define TDE_KEYMAP_KEY_SIZE 32u
#define TDE_KEYMAP_LONGEST (64u << 20) /* a million tablespaces were made by then */
#define TDE_KEYMAP_HEX 33u /* a key id in hexadecimal digits, with the zero byte */

/* Where a key comes from; all but the last are those of tablespaces. */
enum tde_keymap_kind {
    TDE_KEYMAP_DERIVED = 1, /* from the key of other tablespaces, and the OID */
    TDE_KEYMAP_RECORD = 2,  /* keys/<OID>.key, which releases before the map wrote */
    TDE_KEYMAP_NAMED = 3,   /* keys/<key id>.key, which the location names */
    TDE_KEYMAP_REKEYED = 4, /* keys/<key id>.key, whatever the location names: a rekey made it */
    TDE_KEYMAP_WAL = 5,     /* keys/wal.<number>.<key id>.key, for WAL that is written from now on */
    TDE_KEYMAP_WAL_READ = 6, /* the same, of WAL that another server has written */
};

struct tde_keymap_entry {
    uint32_t oid; /* 0 for WAL, which has no tablespace */
    enum tde_keymap_kind kind;
    uint8_t key_id[TDE_UUID_SIZE]; /* zeros for the first two kinds */
};

/* The key that authenticates the map, from that of the WAL.  0 or -1. */
int tde_format_keymap_key(const struct tde_key *wal, uint8_t key[TDE_KEYMAP_KEY_SIZE]);

/* Write the header of a new map.  0 or -1. */
int tde_format_keymap_begin(const uint8_t keystore[TDE_UUID_SIZE],
                            const uint8_t key[TDE_KEYMAP_KEY_SIZE], uint8_t to[TDE_KEYMAP_UNIT]);

/* Write what comes behind LAST, the header or the entry at the end of a map.  0 or -1. */
int tde_format_keymap_append(const uint8_t last[TDE_KEYMAP_UNIT],
                             const uint8_t key[TDE_KEYMAP_KEY_SIZE],
                             const struct tde_keymap_entry *entry, uint8_t to[TDE_KEYMAP_UNIT]);

/* Whether what a map begins with names KEYSTORE, which is not yet authenticated. */
bool tde_format_keymap_is_of(const uint8_t *map, size_t length,
                             const uint8_t keystore[TDE_UUID_SIZE]);

/*
 * What is wrong with a map; NULL when its first *USABLE bytes are authentic.  What may be behind
 * them is an entry that was being written when the machine failed.
 */
const char *tde_format_keymap_check(const uint8_t *map, size_t length,
                                    const uint8_t keystore[TDE_UUID_SIZE],
                                    const uint8_t key[TDE_KEYMAP_KEY_SIZE], size_t *usable);

/* Read the entry with a number, from 0 on, of a map that was checked. */
void tde_format_keymap_entry(const uint8_t *map, size_t number, struct tde_keymap_entry *entry);

/* The number of entries in USABLE bytes. */
size_t tde_format_keymap_count(size_t usable);

/* Whether an entry is about WAL. */
static inline bool tde_format_keymap_is_of_wal(const struct tde_keymap_entry *entry)
{
    return entry->kind >= TDE_KEYMAP_WAL;
}

/* Whether an entry has the id of its key. */
static inline bool tde_format_keymap_has_id(const struct tde_keymap_entry *entry)
{
    return entry->kind >= TDE_KEYMAP_NAMED;
}

/* The entry of a tablespace that initdb makes, as long as the map has none: keys/<OID>.key. */
bool tde_format_keymap_built_in(uint32_t oid, struct tde_keymap_entry *entry);

/* The entry that counts for a tablespace, or with OID 0 for new WAL; false when there is none. */
bool tde_format_keymap_find(const uint8_t *map, size_t usable, uint32_t oid,
                            struct tde_keymap_entry *entry);

/*
 * A tablespace to which two maps give different keys; 0 when there is none.  One that only one of
 * them knows does no harm to who copies blocks from one cluster to the other; those that initdb
 * makes are in every cluster.  WAL does not count: each segment tells its key by itself.
 */
uint32_t tde_format_keymap_conflict(const uint8_t *one, size_t one_usable, const uint8_t *other,
                                    size_t other_usable);

/* How much of a map would be usable if it was authentic, for who has no key; 0 if it is none. */
size_t tde_format_keymap_length(const uint8_t *map, size_t length);

/* Whether two maps are those of one keystore. */
bool tde_format_keymap_same_keystore(const uint8_t *one, const uint8_t *other);

/*
 * The key id in the location of a tablespace, the last component "tde-<32 digits>" of it; false
 * when there is none.
 */
bool tde_format_keymap_parse_location(const char *location, uint8_t key_id[TDE_UUID_SIZE]);

/* Whether the text of tde.json is of a release that wrote no map; tde writes it line by line. */
bool tde_format_keymap_is_older(const char *marker);

/* Read 32 hexadecimal digits, or less and then false. */
bool tde_format_keymap_parse_hex(const char *text, uint8_t key_id[TDE_UUID_SIZE]);

/* A key id as it stands in file names and locations. */
void tde_format_keymap_hex(const uint8_t key_id[TDE_UUID_SIZE], char to[TDE_KEYMAP_HEX]);

#endif
