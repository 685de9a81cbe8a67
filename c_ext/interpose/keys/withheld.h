/*
 * keys/withheld.h - tablespaces whose keys are in memory, and which no session may use for now.
 *
 * Recovery and the writing of pages that are in memory need the keys of all tablespaces at any
 * time.  So a tablespace that is locked, or a keystore that is closed, is a matter of who may use a
 * key, and not of who has it.
 */
#ifndef TDE_INTERPOSE_KEYS_WITHHELD_H
#define TDE_INTERPOSE_KEYS_WITHHELD_H

#include <stdbool.h>
#include <stdint.h>

/* As many as can be locked one by one. */
#define TDE_KEYS_MOST_LOCKED 1024u

enum tde_withheld {
    TDE_NOT_WITHHELD,
    TDE_WITHHELD_CLOSED, /* the keystore is closed: all tablespaces but those that initdb makes */
    TDE_WITHHELD_LOCKED, /* this tablespace is locked */
};

/* Make the memory, before any fork.  CLOSED is how the server starts.  False when there is none. */
bool tde_keys_withheld_create(bool closed);

/* For the postmaster.  False when too many are locked. */
bool tde_keys_withheld_lock(uint32_t oid);
void tde_keys_withheld_unlock(uint32_t oid);
void tde_keys_withheld_close(bool closed);

/* Whether sessions may use a tablespace. */
enum tde_withheld tde_keys_withheld_find(uint32_t oid);

/* What is published: whether the keystore is closed, and up to MOST of those that are locked. */
bool tde_keys_withheld_list(uint32_t *oids, uint32_t most);

#endif
