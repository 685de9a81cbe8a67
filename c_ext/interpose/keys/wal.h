/*
 * keys/wal.h - which key a WAL segment has, when there are several.
 *
 * The key of WAL is rotated while the server runs: a segment that was begun keeps its key, and
 * from a later one on the new key is used (docs/format.md, section 7).  What a segment was written
 * with, it tells by itself: its first page decrypts to a WAL header with its address.  So segments
 * of the archive, of standbys and of backups need no list.
 */
#ifndef TDE_INTERPOSE_KEYS_WAL_H
#define TDE_INTERPOSE_KEYS_WAL_H

#include <stdbool.h>
#include <stdint.h>

#include "format/identity.h"
#include "format/keyrecord.h"
#include "format/page.h"
#include "interpose/keys/ring.h"

/* Load all keys of WAL from the keystore.  False when there is no memory. */
bool tde_keys_wal_open(void);

/*
 * For a server, before it opens its first segment: the key map of the working directory says which
 * key it writes with.  All keys that the map names must be in the keystore, because WAL that
 * nobody can read looks like the end of WAL.  0, or -1 with errno, after a report when it is ENOKEY.
 */
int tde_keys_wal_follow_map(void);

/* For a server that runs: write with a key that the map names last, from a later segment on.  NULL,
 * or what is wrong. */
const char *tde_keys_wal_switch(const uint8_t key_id[TDE_UUID_SIZE]);

/*
 * The id of the key with which new segments are written, zeros for the first key of WAL; and from
 * which segment on: its log, and below that its number in 12 bits.
 */
void tde_keys_wal_newest(uint8_t key_id[TDE_UUID_SIZE], uint64_t *from);

/* The key that segments get now, for who only wants to know whether there is one. */
tde_key_index tde_keys_wal_usual(void);

/* The key for a segment that is open and has no content yet. */
tde_key_index tde_keys_wal_decide(const struct tde_identity *id);

/* Whether a segment that has content may have another key than that. */
bool tde_keys_wal_may_differ(void);

/*
 * Find the key that a segment was written with by the beginning of its first page.  1 and *FOUND,
 * 0 when no key fits, or -1 with errno.
 */
int tde_keys_wal_try(const struct tde_identity *id, const uint8_t start[TDE_WAL_START_SIZE],
                     tde_key_index *found);

/* Name a key in the map, which another server has used.  0, or -1 with errno. */
int tde_keys_wal_remember(tde_key_index index);

/* Load keys that have come into the keystore since. */
void tde_keys_wal_reload(void);

#endif
