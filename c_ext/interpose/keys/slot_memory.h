/*
 * keys/slot_memory.h - the two mappings behind keys/slots.h, for the files that fill them.
 *
 * What keys/slots.h says of their creation, of the scope and of master keys is done here.
 */
#ifndef TDE_INTERPOSE_KEYS_SLOT_MEMORY_H
#define TDE_INTERPOSE_KEYS_SLOT_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

#include "format/keymap.h"
#include "format/keyrecord.h"
#include "interpose/keys/slots.h"

#define PLACES (2 * TDE_KEYS_SLOTS) /* of the index; half of them stay empty */

enum tde_keys_slot_state { SLOT_EMPTY, SLOT_CLAIMED, SLOT_READY, SLOT_DROPPED };

struct tde_keys_slot {
    _Atomic int state;
    _Atomic uint32_t generation; /* how often another key has taken the place of an earlier one */
    struct tde_keymap_entry entry;
    struct tde_key key;
};

struct tde_keys_ring {
    struct tde_keys_scope scope;
    struct tde_keys_slot slots[TDE_KEYS_SLOTS];
};

/* Nothing of it is secret, and what it leads to is checked. */
struct tde_keys_directory {
    _Atomic int loaded;
    _Atomic uint32_t hint;           /* below it no slot is empty */
    _Atomic uint32_t places[PLACES]; /* number of a slot, plus one */
};

/* NULL when no keystore is open. */
extern struct tde_keys_ring *tde_keys_ring;
extern struct tde_keys_directory *tde_keys_directory;

/*
 * A stray write in one backend would spoil the keys of all, and with them every block
 * written from then on, so the ring is read-only except while something is changed.  False when
 * it cannot be written, and then nothing has to be ended.
 */
bool tde_keys_begin_change(void);
void tde_keys_end_change(void); /* keeps errno */

#endif
