/*
 * keys/slots.h - the memory that keys are kept in, shared by all processes of a server.
 *
 * It is made before any fork, so a key that one backend unwraps is there for all.  The secrets
 * lie in one mapping that is read-only except while a key is added, and which the kernel keeps
 * from others where it can (memfd_secret); what finds a slot by its OID is no secret and lies in
 * another.
 */
#ifndef TDE_INTERPOSE_KEYS_SLOTS_H
#define TDE_INTERPOSE_KEYS_SLOTS_H

#include <stdbool.h>
#include <stdint.h>

#include "crypto/sizes.h"
#include "format/handover.h"
#include "format/keymap.h"
#include "format/keyrecord.h"
#include "format/message.h"
#include "interpose/keys/ring.h"

/* Memory for so many keys is reserved; it is used as far as there are tablespaces. */
#ifndef TDE_KEYS_SLOTS
#define TDE_KEYS_SLOTS 33024u
#endif

/* Keys of WAL that are not the first, of all that the keystore has ever had. */
#ifndef TDE_KEYS_LATER_WALS
#define TDE_KEYS_LATER_WALS 254u
#endif

/* Places for master keys that come after the start: who reads one may go on for a while. */
#define TDE_KEYS_ROTATIONS 8u

/* Whose keys these are; written once, at the start, but for the master keys that come later. */
struct tde_keys_scope {
    struct tde_key_scope scope; /* of the start */
    struct tde_key_scope rotated[TDE_KEYS_ROTATIONS];
    _Atomic uint32_t rotations;
    struct tde_message_reader reader;
    uint8_t tail_key[TDE_TAIL_KEY_SIZE];
    uint8_t map_key[TDE_KEYMAP_KEY_SIZE];
    uint8_t wal_proof[TDE_WAL_PROOF_SIZE]; /* no secret */
    struct tde_key other; /* what keys are derived from; algorithm 0 in scope tablespaces */
    char keystore[TDE_HANDOVER_PATH_MAX + 1];
};

/* Slots with a fixed place. */
enum {
    TDE_KEYS_EPHEMERAL,
    TDE_KEYS_WAL, /* the first key of WAL */
    TDE_KEYS_LATER_WAL,
    TDE_KEYS_FIRST_TABLESPACE = TDE_KEYS_LATER_WAL + TDE_KEYS_LATER_WALS
};

/* False when there is no memory.  The scope is writable until the first call of lock. */
bool tde_keys_slots_create(void);
void tde_keys_slots_destroy(void);

/* The scope, or NULL when no keystore is open. */
struct tde_keys_scope *tde_keys_scope(void);

/*
 * The master key with this id if it is the newest one, else NULL: a master key is rotated because
 * somebody else may have it, who could then make records.
 */
const struct tde_key_scope *tde_keys_slots_master(const uint8_t master_key_id[TDE_UUID_SIZE]);

/* The newest one. */
const struct tde_key_scope *tde_keys_slots_newest_master(void);

/* Let a master key take the place of the one before.  0, or -1 with errno. */
int tde_keys_slots_add_master(const struct tde_key_scope *master);

/* From here on the memory is read-only.  0, or -1 with errno. */
int tde_keys_slots_protect(void);

/* Put a key into a slot with a fixed place, before the first fork. */
void tde_keys_slots_set(unsigned int slot, const struct tde_key *key);

/* Keep a key of WAL that is not the first.  TDE_KEY_NONE with errno when there is no room. */
tde_key_index tde_keys_slots_add_wal(const uint8_t key_id[TDE_UUID_SIZE],
                                     const struct tde_key *key);

/* The one in place NUMBER, below TDE_KEYS_LATER_WALS, and its id; TDE_KEY_NONE when it is free. */
tde_key_index tde_keys_slots_later_wal(uint32_t number, uint8_t key_id[TDE_UUID_SIZE]);

/* The key of a tablespace, or TDE_KEY_NONE; no system call. */
tde_key_index tde_keys_slots_find(uint32_t oid);

/* Whether the key of a tablespace that is in memory is the one that ENTRY of the map means. */
bool tde_keys_slots_has(const struct tde_keymap_entry *entry);

/*
 * Keep the key of a tablespace, in the place of another that it had.  TDE_KEY_NONE with errno
 * ENOMEM when there is no room.
 */
tde_key_index tde_keys_slots_store(const struct tde_keymap_entry *entry,
                                   const struct tde_key *key);

/*
 * The key of a tablespace that was dropped stays in memory until its slot is needed, so that
 * recovery, which drops and makes the link again, does not depend on the keystore.
 */
void tde_keys_slots_drop(uint32_t oid);

/* Find again the key of a tablespace that was dropped; TDE_KEY_NONE when it is gone. */
tde_key_index tde_keys_slots_revive(const struct tde_keymap_entry *entry);

/* Copy the key out of its slot; -1 when the slot has another by now. */
int tde_keys_slots_read(tde_key_index index, struct tde_key *key);

/* The same for what is no secret of it. */
int tde_keys_slots_algorithm(tde_key_index index, int *algorithm);

/*
 * The slots of tablespaces that were ever used end before this one.  Whoever looked at others would
 * take memory for them that is not there yet.
 */
uint32_t tde_keys_slots_end(void);

/*
 * What one of them says that is no secret: its entry of the map and the algorithm of its key, and
 * whether the tablespace exists, as far as memory knows.  False when there is nothing in it.
 */
bool tde_keys_slots_show(uint32_t slot, struct tde_keymap_entry *entry, int *algorithm,
                         bool *exists);

/* Whether all that the map says has been loaded since the start of the server. */
bool tde_keys_slots_loaded(void);
void tde_keys_slots_set_loaded(void);

#endif
