/*
 * keys/slots.c - see keys/slots.h.
 *
 * No lock is held across processes: a slot and a place in the index are claimed by one
 * compare-and-swap, so a process that is killed in between wastes a slot and stops nobody.  Two
 * processes may store the same key twice, harmlessly.
 */
#include "interpose/keys/slots.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#include "crypto/primitives.h"
#include "interpose/keys/slot_memory.h"
#include "interpose/libc/report.h"

#define PLACE_EMPTY 0u
#define PLACE_LEFT UINT32_MAX /* what it led to was dropped; others may lie behind it */

void tde_keys_slots_set(unsigned int slot, const struct tde_key *key)
{
    tde_keys_ring->slots[slot].key = *key;
    atomic_store(&tde_keys_ring->slots[slot].state, SLOT_READY);
}

static tde_key_index index_of(uint32_t slot)
{
    uint32_t generation = atomic_load_explicit(&tde_keys_ring->slots[slot].generation,
                                               memory_order_acquire);

    return (tde_key_index)generation << 32 | slot;
}

/* OIDs are given out one after the other; the multiplication spreads them. */
static uint32_t first_place(uint32_t oid)
{
    return (uint32_t)((oid * UINT64_C(0x9E3779B97F4A7C15)) >> 33) % PLACES;
}

static bool leads_to(uint32_t place, uint32_t oid)
{
    const struct tde_keys_slot *slot;

    if (place == PLACE_EMPTY || place == PLACE_LEFT || place > TDE_KEYS_SLOTS)
        return false;
    slot = &tde_keys_ring->slots[place - 1];
    return atomic_load_explicit(&slot->state, memory_order_acquire) == SLOT_READY &&
           slot->entry.oid == oid;
}

tde_key_index tde_keys_slots_find(uint32_t oid)
{
    uint32_t at = first_place(oid);

    for (uint32_t n = 0; n < PLACES; n++, at = (at + 1) % PLACES) {
        uint32_t place =
            atomic_load_explicit(&tde_keys_directory->places[at], memory_order_acquire);

        tde_key_index index;

        if (place == PLACE_EMPTY)
            return TDE_KEY_NONE;
        if (place == PLACE_LEFT || place > TDE_KEYS_SLOTS)
            continue;
        /* The generation is read first: with a later one the slot may have another key. */
        index = index_of(place - 1);
        if (!leads_to(place, oid))
            continue;
        /* A processor may have read the OID after the second generation otherwise. */
        atomic_thread_fence(memory_order_acquire);
        if (index_of(place - 1) == index)
            return index;
    }
    return TDE_KEY_NONE;
}

static bool equal_entries(const struct tde_keymap_entry *a, const struct tde_keymap_entry *b)
{
    return a->oid == b->oid && a->kind == b->kind &&
           (!tde_format_keymap_has_id(a) || memcmp(a->key_id, b->key_id, sizeof a->key_id) == 0);
}

bool tde_keys_slots_has(const struct tde_keymap_entry *entry)
{
    tde_key_index index = tde_keys_slots_find(entry->oid);

    return index >= 0 &&
           equal_entries(&tde_keys_ring->slots[(uint32_t)index & UINT32_MAX].entry, entry);
}

/* Make a tablespace's slot the one that its OID leads to. */
static bool publish(uint32_t number)
{
    uint32_t at = first_place(tde_keys_ring->slots[number].entry.oid);

    for (uint32_t n = 0; n < PLACES; n++, at = (at + 1) % PLACES) {
        uint32_t place = atomic_load(&tde_keys_directory->places[at]);

        while (place == PLACE_EMPTY || place == PLACE_LEFT)
            if (atomic_compare_exchange_weak(&tde_keys_directory->places[at], &place, number + 1))
                return true;
    }
    return false;
}

/*
 * Whoever still has the number of this slot must not get another key.  The fence keeps what is
 * stored into the slot behind the new generation: a 64-bit ARM of before LSE adds with a pair of
 * instructions that orders what was before it, and lets later stores overtake it.
 */
static void begin_generation(struct tde_keys_slot *slot)
{
    atomic_fetch_add(&slot->generation, 1);
    atomic_thread_fence(memory_order_release);
}

/* An unused slot, else one whose tablespace was dropped; TDE_KEYS_SLOTS when there is none. */
static uint32_t claim(void)
{
    static const int wanted[] = {SLOT_EMPTY, SLOT_DROPPED};

    for (size_t pass = 0; pass < 2; pass++) {
        uint32_t from =
            pass == 0 ? atomic_load(&tde_keys_directory->hint) : TDE_KEYS_FIRST_TABLESPACE;

        for (uint32_t i = from; i < TDE_KEYS_SLOTS; i++) {
            int state = wanted[pass];

            if (!atomic_compare_exchange_strong(&tde_keys_ring->slots[i].state, &state,
                                                SLOT_CLAIMED))
                continue;
            if (pass == 0)
                atomic_store(&tde_keys_directory->hint, i + 1);
            else
                begin_generation(&tde_keys_ring->slots[i]);
            return i;
        }
    }
    return TDE_KEYS_SLOTS;
}

static void drop(uint32_t oid)
{
    uint32_t at = first_place(oid);

    for (uint32_t n = 0; n < PLACES; n++, at = (at + 1) % PLACES) {
        uint32_t place = atomic_load(&tde_keys_directory->places[at]);
        struct tde_keys_slot *slot;
        uint32_t left;

        if (place == PLACE_EMPTY)
            return;
        if (!leads_to(place, oid))
            continue;
        slot = &tde_keys_ring->slots[place - 1];
        if (!atomic_compare_exchange_strong(&tde_keys_directory->places[at], &place, PLACE_LEFT))
            continue; /* Another process has dropped it. */
        if (slot->entry.oid == oid) {
            atomic_store(&slot->state, SLOT_DROPPED);
            continue;
        }
        /* It was dropped and the slot given to another in between: put that one back. */
        left = PLACE_LEFT;
        atomic_compare_exchange_strong(&tde_keys_directory->places[at], &left, place);
    }
}

static tde_key_index store(const struct tde_keymap_entry *entry, const struct tde_key *key)
{
    uint32_t number = claim();
    struct tde_keys_slot *slot;
    tde_key_index index;

    if (number == TDE_KEYS_SLOTS) {
        tde_libc_report("there is no room for the key of tablespace %u: one server has at most "
                        "%u tablespaces",
                        entry->oid, TDE_KEYS_SLOTS - TDE_KEYS_FIRST_TABLESPACE);
        return TDE_KEY_NONE;
    }
    slot = &tde_keys_ring->slots[number];
    index = index_of(number); /* While it is ours; once it is ready others may drop it. */
    slot->entry = *entry;
    slot->key = *key;
    drop(entry->oid);
    atomic_store_explicit(&slot->state, SLOT_READY, memory_order_release);
    if (publish(number))
        return index;
    atomic_store(&slot->state, SLOT_DROPPED);
    return TDE_KEY_NONE;
}

tde_key_index tde_keys_slots_store(const struct tde_keymap_entry *entry, const struct tde_key *key)
{
    tde_key_index index = TDE_KEY_NONE;

    if (tde_keys_begin_change()) {
        index = store(entry, key);
        tde_keys_end_change();
    }
    if (index < 0)
        errno = ENOMEM;
    return index;
}

/* A process that is killed in between leaves a place that nobody uses. */
static tde_key_index add_wal(const uint8_t key_id[TDE_UUID_SIZE], const struct tde_key *key)
{
    for (uint32_t i = TDE_KEYS_LATER_WAL; i < TDE_KEYS_FIRST_TABLESPACE; i++) {
        struct tde_keys_slot *slot = &tde_keys_ring->slots[i];
        int state = SLOT_EMPTY;

        if (!atomic_compare_exchange_strong(&slot->state, &state, SLOT_CLAIMED))
            continue;
        memcpy(slot->entry.key_id, key_id, TDE_UUID_SIZE);
        slot->key = *key;
        atomic_store_explicit(&slot->state, SLOT_READY, memory_order_release);
        return index_of(i);
    }
    tde_libc_report("there is no room for another key of WAL: one keystore has at most %u",
                    TDE_KEYS_LATER_WALS + 1);
    return TDE_KEY_NONE;
}

tde_key_index tde_keys_slots_add_wal(const uint8_t key_id[TDE_UUID_SIZE], const struct tde_key *key)
{
    tde_key_index index = TDE_KEY_NONE;

    if (tde_keys_begin_change()) {
        index = add_wal(key_id, key);
        tde_keys_end_change();
    }
    if (index < 0)
        errno = ENOMEM;
    return index;
}

tde_key_index tde_keys_slots_later_wal(uint32_t number, uint8_t key_id[TDE_UUID_SIZE])
{
    const struct tde_keys_slot *slot = &tde_keys_ring->slots[TDE_KEYS_LATER_WAL + number];

    if (atomic_load_explicit(&slot->state, memory_order_acquire) != SLOT_READY)
        return TDE_KEY_NONE;
    memcpy(key_id, slot->entry.key_id, TDE_UUID_SIZE);
    return index_of(TDE_KEYS_LATER_WAL + number);
}

void tde_keys_slots_drop(uint32_t oid)
{
    int saved = errno;

    if (tde_keys_ring != NULL && tde_keys_slots_find(oid) >= 0 && tde_keys_begin_change()) {
        drop(oid);
        tde_keys_end_change();
    }
    errno = saved;
}

static tde_key_index revive(const struct tde_keymap_entry *entry)
{
    for (uint32_t i = TDE_KEYS_FIRST_TABLESPACE; i < TDE_KEYS_SLOTS; i++) {
        struct tde_keys_slot *slot = &tde_keys_ring->slots[i];
        int state = SLOT_DROPPED;
        tde_key_index index;

        if (atomic_load(&slot->state) == SLOT_EMPTY && i >= atomic_load(&tde_keys_directory->hint))
            break;
        if (!equal_entries(&slot->entry, entry) ||
            !atomic_compare_exchange_strong(&slot->state, &state, SLOT_CLAIMED))
            continue;
        if (!equal_entries(&slot->entry, entry)) { /* Somebody took it and dropped it meanwhile. */
            atomic_store(&slot->state, SLOT_DROPPED);
            continue;
        }
        index = index_of(i);
        drop(entry->oid);
        atomic_store_explicit(&slot->state, SLOT_READY, memory_order_release);
        if (publish(i))
            return index;
        atomic_store(&slot->state, SLOT_DROPPED);
    }
    return TDE_KEY_NONE;
}

tde_key_index tde_keys_slots_revive(const struct tde_keymap_entry *entry)
{
    tde_key_index index = TDE_KEY_NONE;

    if (tde_keys_begin_change()) {
        index = revive(entry);
        tde_keys_end_change();
    }
    return index;
}

int tde_keys_slots_read(tde_key_index index, struct tde_key *key)
{
    uint32_t number = (uint32_t)(index & UINT32_MAX);
    const struct tde_keys_slot *slot = &tde_keys_ring->slots[number];

    if (index < 0 || number >= TDE_KEYS_SLOTS || index_of(number) != index)
        return -1;
    *key = slot->key;
    /* A slot that was taken meanwhile has counted that before its key was replaced. */
    atomic_thread_fence(memory_order_acquire);
    if (index_of(number) == index)
        return 0;
    tde_crypto_wipe(key, sizeof *key);
    return -1;
}

int tde_keys_slots_algorithm(tde_key_index index, int *algorithm)
{
    uint32_t number = (uint32_t)(index & UINT32_MAX);

    if (index < 0 || number >= TDE_KEYS_SLOTS || index_of(number) != index)
        return -1;
    *algorithm = tde_keys_ring->slots[number].key.algorithm;
    atomic_thread_fence(memory_order_acquire);
    return index_of(number) == index ? 0 : -1;
}

uint32_t tde_keys_slots_end(void)
{
    return tde_keys_directory == NULL ? 0 : atomic_load(&tde_keys_directory->hint);
}

bool tde_keys_slots_show(uint32_t slot, struct tde_keymap_entry *entry, int *algorithm,
                         bool *exists)
{
    int state;

    if (slot < TDE_KEYS_FIRST_TABLESPACE || slot >= tde_keys_slots_end())
        return false;
    state = atomic_load_explicit(&tde_keys_ring->slots[slot].state, memory_order_acquire);
    if (state == SLOT_EMPTY || state == SLOT_CLAIMED)
        return false;
    *entry = tde_keys_ring->slots[slot].entry;
    *algorithm = tde_keys_ring->slots[slot].key.algorithm;
    *exists = state == SLOT_READY;
    return true;
}

bool tde_keys_slots_loaded(void)
{
    return atomic_load_explicit(&tde_keys_directory->loaded, memory_order_acquire) != 0;
}

void tde_keys_slots_set_loaded(void)
{
    atomic_store_explicit(&tde_keys_directory->loaded, 1, memory_order_release);
}
