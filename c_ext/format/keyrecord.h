/*
 * format/keyrecord.h - the key records of a keystore (docs/format.md, section 6).
 * Pure: the caller reads the file.  tde/keystore/store/record.py is the same in Python.
 */
#ifndef TDE_FORMAT_KEYRECORD_H
#define TDE_FORMAT_KEYRECORD_H

#include <stddef.h>
#include <stdint.h>

#include "crypto/sizes.h"

#define TDE_KEYRECORD_SIZE 144u       /* version 1, which names its owner */
#define TDE_KEYRECORD_NAMED_SIZE 160u /* version 2, which has a name of its own, a key id */
#define TDE_KEYRECORD_LONGEST TDE_KEYRECORD_NAMED_SIZE
#define TDE_UUID_SIZE 16u
#define TDE_WAL_PROOF_SIZE 16u

enum tde_key_owner {
    TDE_OWNER_WAL = 1,
    TDE_OWNER_TABLESPACE = 2,
    TDE_OWNER_OTHER_TABLESPACES = 3, /* all that have no record of their own */
    TDE_OWNER_NAMED = 4, /* a tablespace whose key the map of the cluster names by its id */
    TDE_OWNER_LATER_WAL = 5, /* WAL that is written from a moment on; the first key stays 1 */
};

/* What a record is checked against: the keystore that is open and the key that is wanted. */
struct tde_key_scope {
    uint8_t keystore[TDE_UUID_SIZE];
    uint8_t master_key_id[TDE_UUID_SIZE];
    uint8_t master_key[TDE_GCM_KEY_SIZE];
};

struct tde_key {
    int algorithm; /* enum tde_algorithm */
    uint8_t bytes[TDE_MAX_KEY_SIZE];
};

/* Of which keystore a record says that it is; NULL when it is too short for one. */
const uint8_t *tde_format_keyrecord_keystore(const uint8_t *record, size_t length);

/* With which master key a record says that it is wrapped; NULL when it is too short for one. */
const uint8_t *tde_format_keyrecord_master(const uint8_t *record, size_t length);

/* What is wrong with a record; NULL when *KEY was filled.  The text names no secret. */
const char *tde_format_keyrecord_unwrap(const uint8_t *record, size_t length,
                                        const struct tde_key_scope *scope, enum tde_key_owner owner,
                                        uint32_t oid, struct tde_key *key);

/*
 * The same for a record of version 2, whose key has the id KEY_ID: NUMBER is how many keys of WAL
 * the keystore had with this one, and 0 for a tablespace.
 */
const char *tde_format_keyrecord_unwrap_named(const uint8_t *record, size_t length,
                                              const struct tde_key_scope *scope,
                                              enum tde_key_owner owner, uint32_t number,
                                              const uint8_t key_id[TDE_UUID_SIZE],
                                              struct tde_key *key);

/*
 * Write the record of a tablespace's key that has the id KEY_ID, wrapped with the master key of
 * SCOPE.  The nonce is the caller's, new and random.  0 or -1.
 */
int tde_format_keyrecord_wrap_named(const struct tde_key_scope *scope,
                                    const uint8_t key_id[TDE_UUID_SIZE], const struct tde_key *key,
                                    const uint8_t nonce[TDE_GCM_NONCE_SIZE],
                                    uint8_t to[TDE_KEYRECORD_NAMED_SIZE]);

/*
 * The key of tablespace OID, derived from that of the record for other tablespaces.  0 or -1.
 *
 * One key for several tablespaces would repeat tweaks, because relfilenumbers are unique only
 * within a tablespace.  HKDF gives each an independent key, and whoever has the record has all
 * of them, so a standby needs nothing new when a tablespace is created.
 */
int tde_format_keyrecord_derive(const struct tde_key *base, uint32_t oid, struct tde_key *key);

/*
 * What tells the WAL key of one side of a connection from that of the other, and nothing else
 * about it.  0 or -1.
 */
int tde_format_keyrecord_wal_proof(const struct tde_key *wal, uint8_t proof[TDE_WAL_PROOF_SIZE]);

#endif
