/*
 * keys/records.h - the key records of the keystore, which a running server reads itself.
 */
#ifndef TDE_INTERPOSE_KEYS_RECORDS_H
#define TDE_INTERPOSE_KEYS_RECORDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "format/keymap.h"
#include "format/keyrecord.h"

/*
 * Where the records are.  While the master key is rotated (tde/keystore/rotation.py), each of two
 * directories has them, and they are renamed in the middle, so the first is looked into again.
 */
#define TDE_KEYS_DIRECTORIES 4
extern const char *const tde_keys_records_directories[TDE_KEYS_DIRECTORIES];

/*
 * Read and unwrap the record of an owner.  0; or -1 with errno: ENOENT, unreported, when there is
 * none, ENOKEY after a report when it cannot be used, or what the caller can mend.
 */
int tde_keys_records_read(enum tde_key_owner owner, uint32_t oid, struct tde_key *key);

/*
 * The key that an entry of the map means, from the keystore or derived.  0; or -1 with errno:
 * ENOKEY, after a report if REPORTS, or what the caller can mend.
 */
int tde_keys_records_resolve(const struct tde_keymap_entry *entry, bool reports,
                             struct tde_key *key);

/* The file of a key of WAL that is not the first: keys/wal.<number>.<key id>.key. */
struct tde_wal_record {
    uint32_t number; /* from 2 on */
    uint8_t key_id[TDE_UUID_SIZE];
};

/*
 * Fill LIST with the keys of WAL that are not the first, MOST at most, and *COUNT with their number.
 * 0, or -1 with errno after a report.
 */
int tde_keys_records_list_wal(struct tde_wal_record *list, size_t most, size_t *count);

/* The key of one of them.  0; or -1 with errno, after a report when it is ENOKEY. */
int tde_keys_records_read_wal(const struct tde_wal_record *record, struct tde_key *key);

/*
 * Make a new random key for a tablespace to be, or with TDE_ALGORITHM_PLAINTEXT what says that it
 * has none, and write its record.  The key itself is forgotten: the server reads the record when it
 * is in the keystore.  0 or -1.
 */
int tde_keys_records_make(int algorithm, uint8_t record[TDE_KEYRECORD_NAMED_SIZE]);

/*
 * Whether the keystore has keys/<OID>.key, which only releases before the map wrote.  1 or 0, or
 * -1 with errno when the keystore cannot be asked.
 */
int tde_keys_records_has(uint32_t oid);

/*
 * Make errno what PostgreSQL should see: its own shortages stay what they are, because it knows
 * what to do about them (it closes files and tries again); everything else is ENOKEY.  True when
 * it is ENOKEY now, and worth a report.
 */
bool tde_keys_records_blame(void);

#endif
