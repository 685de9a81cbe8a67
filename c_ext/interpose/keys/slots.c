/*
 * keys/slots.c - see keys/slots.h.
 *
 * No lock is held across processes: a slot and a place in the index are claimed by one
 * compare-and-swap, so a process that is killed in between wastes a slot and stops nobody.  Two
 * processes may store the same key twice, harmlessly.
 */
#include "interpose/keys/slots.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

#include "crypto/primitives.h"
#include "interpose/keys/memory.h"
#include "interpose/libc/report.h"

#define PLACES (2 * TDE_KEYS_SLOTS) /* of the index; half of them stay empty */
#define PLACE_EMPTY 0u
#define PLACE_LEFT UINT32_MAX /* what it led to was dropped; others may lie behind it */

enum slot_state { SLOT_EMPTY, SLOT_CLAIMED, SLOT_READY, SLOT_DROPPED };

struct slot {
    _Atomic int state;
    _Atomic uint32_t generation; /* how often another key has taken the place of an earlier one */
    struct tde_keymap_entry entry;
    struct tde_key key;
};

struct ring {
    struct tde_keys_scope scope;
    struct slot slots[TDE_KEYS_SLOTS];
};

/* Nothing of it is secret, and what it leads to is checked. */
struct directory {
    _Atomic int loaded;
    _Atomic uint32_t hint;            /* below it no slot is empty */
    _Atomic uint32_t places[PLACES]; /* number of a slot, plus one */
};

static struct ring *ring;
static struct directory *directory;

/* Guards the moments in which this process may write to the ring. */
static pthread_mutex_t ring_lock = PTHREAD_MUTEX_INITIALIZER;

struct tde_keys_scope *tde_keys_scope(void)
{
    return ring == NULL ? NULL : &ring->scope;
}

bool tde_keys_slots_create(void)
{
    directory = tde_keys_memory_shared(sizeof *directory);
    ring = directory == NULL ? NULL : tde_keys_memory_secret(sizeof *ring);
    if (ring == NULL) {
        tde_keys_slots_destroy();
        return false;
    }
    atomic_store(&directory->hint, TDE_KEYS_FIRST_TABLESPACE);
    return true;
}

void tde_keys_slots_destroy(void)
{
    if (ring != NULL && mprotect(ring, sizeof *ring, PROT_READ | PROT_WRITE) == 0)
        tde_crypto_wipe(ring, sizeof ring->scope +
                                  TDE_KEYS_FIRST_TABLESPACE * sizeof ring->slots[0]);
    if (ring != NULL)
        munmap(ring, sizeof *ring);
    if (directory != NULL)
        munmap(directory, sizeof *directory);
    ring = NULL;
    directory = NULL;
}

int tde_keys_slots_protect(void)
{
    return mprotect(ring, sizeof *ring, PROT_READ);
}

void tde_keys_slots_set(unsigned int slot, const struct tde_key *key)
{
    ring->slots[slot].key = *key;
    atomic_store(&ring->slots[slot].state, SLOT_READY);
}

/*
 * A stray write in one backend would spoil the keys of all, and with them every block
 * written from then on, so the ring is read-only except while something is changed.
 */
static bool begin_change(void)
{
    pthread_mutex_lock(&ring_lock);
    if (mprotect(ring, sizeof *ring, PROT_READ | PROT_WRITE) == 0)
        return true;
    pthread_mutex_unlock(&ring_lock);
    return false;
}

static void end_change(void)
{
    int saved = errno;

    mprotect(ring, sizeof *ring, PROT_READ);
    pthread_mutex_unlock(&ring_lock);
    errno = saved;
}

const struct tde_key_scope *tde_keys_slots_newest_master(void)
{
    const struct tde_keys_scope *scope = &ring->scope;
    uint32_t count = atomic_load_explicit(&scope->rotations, memory_order_acquire);

    return count == 0 ? &scope->scope : &scope->rotated[(count - 1) % TDE_KEYS_ROTATIONS];
}

const struct tde_key_scope *tde_keys_slots_master(const uint8_t master_key_id[TDE_UUID_SIZE])
{
    const struct tde_key_scope *newest = tde_keys_slots_newest_master();

    return memcmp(newest->master_key_id, master_key_id, TDE_UUID_SIZE) == 0 ? newest : NULL;
}

/*
 * Only the postmaster does this.  The place that it takes is that of a key which eight rotations
 * have replaced; nobody who has found that one is still reading it.
 */
int tde_keys_slots_add_master(const struct tde_key_scope *master)
{
    uint32_t count;

    if (!begin_change())
        return -1;
    count = atomic_load(&ring->scope.rotations);
    ring->scope.rotated[count % TDE_KEYS_ROTATIONS] = *master;
    atomic_store_explicit(&ring->scope.rotations, count + 1, memory_order_release);
    end_change();
    return 0;
}

static tde_key_index index_of(uint32_t slot)
{
    uint32_t generation = atomic_load_explicit(&ring->slots[slot].generation,
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
    const struct slot *slot;

    if (place == PLACE_EMPTY || place == PLACE_LEFT || place > TDE_KEYS_SLOTS)
        return false;
    slot = &ring->slots[place - 1];
    return atomic_load_explicit(&slot->state, memory_order_acquire) == SLOT_READY &&
           slot->entry.oid == oid;
}

tde_key_index tde_keys_slots_find(uint32_t oid)
{
    uint32_t at = first_place(oid);

    for (uint32_t n = 0; n < PLACES; n++, at = (at + 1) % PLACES) {
        uint32_t place = atomic_load_explicit(&directory->places[at], memory_order_acquire);

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
           equal_entries(&ring->slots[(uint32_t)index & UINT32_MAX].entry, entry);
}

/* Make a tablespace's slot the one that its OID leads to. */
static bool publish(uint32_t number)
{
    uint32_t at = first_place(ring->slots[number].entry.oid);

    for (uint32_t n = 0; n < PLACES; n++, at = (at + 1) % PLACES) {
        uint32_t place = atomic_load(&directory->places[at]);

        while (place == PLACE_EMPTY || place == PLACE_LEFT)
            if (atomic_compare_exchange_weak(&directory->places[at], &place, number + 1))
                return true;
    }
    return false;
}

/* An unused slot, else one whose tablespace was dropped; TDE_KEYS_SLOTS when there is none. */
static uint32_t claim(void)
{
    static const int wanted[] = {SLOT_EMPTY, SLOT_DROPPED};

    for (size_t pass = 0; pass < 2; pass++) {
        uint32_t from = pass == 0 ? atomic_load(&directory->hint) : TDE_KEYS_FIRST_TABLESPACE;

        for (uint32_t i = from; i < TDE_KEYS_SLOTS; i++) {
            int state = wanted[pass];

            if (!atomic_compare_exchange_strong(&ring->slots[i].state, &state, SLOT_CLAIMED))
                continue;
            if (pass == 0)
                atomic_store(&directory->hint, i + 1);
            else /* Whoever still has the number of this slot must not get another key. */
                atomic_fetch_add(&ring->slots[i].generation, 1);
            return i;
        }
    }
    return TDE_KEYS_SLOTS;
}

static void drop(uint32_t oid)
{
    uint32_t at = first_place(oid);

    for (uint32_t n = 0; n < PLACES; n++, at = (at + 1) % PLACES) {
        uint32_t place = atomic_load(&directory->places[at]);
        struct slot *slot;
        uint32_t left;

        if (place == PLACE_EMPTY)
            return;
        if (!leads_to(place, oid))
            continue;
        slot = &ring->slots[place - 1];
        if (!atomic_compare_exchange_strong(&directory->places[at], &place, PLACE_LEFT))
            continue; /* Another process has dropped it. */
        if (slot->entry.oid == oid) {
            atomic_store(&slot->state, SLOT_DROPPED);
            continue;
        }
        /* It was dropped and the slot given to another in between: put that one back. */
        left = PLACE_LEFT;
        atomic_compare_exchange_strong(&directory->places[at], &left, place);
    }
}

static tde_key_index store(const struct tde_keymap_entry *entry, const struct tde_key *key)
{
    uint32_t number = claim();
    struct slot *slot;
    tde_key_index index;

    if (number == TDE_KEYS_SLOTS) {
        tde_libc_report("there is no room for the key of tablespace %u: one server has at most "
                        "%u tablespaces",
                        entry->oid, TDE_KEYS_SLOTS - TDE_KEYS_FIRST_TABLESPACE);
        return TDE_KEY_NONE;
    }
    slot = &ring->slots[number];
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

    if (begin_change()) {
        index = store(entry, key);
        end_change();
    }
    if (index < 0)
        errno = ENOMEM;
    return index;
}

/* A process that is killed in between leaves a place that nobody uses. */
static tde_key_index add_wal(const uint8_t key_id[TDE_UUID_SIZE], const struct tde_key *key)
{
    for (uint32_t i = TDE_KEYS_LATER_WAL; i < TDE_KEYS_FIRST_TABLESPACE; i++) {
        struct slot *slot = &ring->slots[i];
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

    if (begin_change()) {
        index = add_wal(key_id, key);
        end_change();
    }
    if (index < 0)
        errno = ENOMEM;
    return index;
}

tde_key_index tde_keys_slots_later_wal(uint32_t number, uint8_t key_id[TDE_UUID_SIZE])
{
    const struct slot *slot = &ring->slots[TDE_KEYS_LATER_WAL + number];

    if (atomic_load_explicit(&slot->state, memory_order_acquire) != SLOT_READY)
        return TDE_KEY_NONE;
    memcpy(key_id, slot->entry.key_id, TDE_UUID_SIZE);
    return index_of(TDE_KEYS_LATER_WAL + number);
}

void tde_keys_slots_drop(uint32_t oid)
{
    int saved = errno;

    if (ring != NULL && tde_keys_slots_find(oid) >= 0 && begin_change()) {
        drop(oid);
        end_change();
    }
    errno = saved;
}

static tde_key_index revive(const struct tde_keymap_entry *entry)
{
    for (uint32_t i = TDE_KEYS_FIRST_TABLESPACE; i < TDE_KEYS_SLOTS; i++) {
        struct slot *slot = &ring->slots[i];
        int state = SLOT_DROPPED;
        tde_key_index index;

        if (atomic_load(&slot->state) == SLOT_EMPTY && i >= atomic_load(&directory->hint))
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

    if (begin_change()) {
        index = revive(entry);
        end_change();
    }
    return index;
}

int tde_keys_slots_read(tde_key_index index, struct tde_key *key)
{
    uint32_t number = (uint32_t)(index & UINT32_MAX);
    const struct slot *slot = &ring->slots[number];

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
    *algorithm = ring->slots[number].key.algorithm;
    atomic_thread_fence(memory_order_acquire);
    return index_of(number) == index ? 0 : -1;
}

uint32_t tde_keys_slots_end(void)
{
    return directory == NULL ? 0 : atomic_load(&directory->hint);
}

bool tde_keys_slots_show(uint32_t slot, struct tde_keymap_entry *entry, int *algorithm,
                         bool *exists)
{
    int state;

    if (slot < TDE_KEYS_FIRST_TABLESPACE || slot >= tde_keys_slots_end())
        return false;
    state = atomic_load_explicit(&ring->slots[slot].state, memory_order_acquire);
    if (state == SLOT_EMPTY || state == SLOT_CLAIMED)
        return false;
    *entry = ring->slots[slot].entry;
    *algorithm = ring->slots[slot].key.algorithm;
    *exists = state == SLOT_READY;
    return true;
}

bool tde_keys_slots_loaded(void)
{
    return atomic_load_explicit(&directory->loaded, memory_order_acquire) != 0;
}

void tde_keys_slots_set_loaded(void)
{
    atomic_store_explicit(&directory->loaded, 1, memory_order_release);
}
