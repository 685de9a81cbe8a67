/*
 * blocks/counters.c - striped counters in the server's published status.
 *
 * One cache line per stripe and a stripe chosen by process, so that backends on
 * different cores rarely write to the same line.
 */
#include "interpose/blocks/counters.h"

#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "interpose/blocks/status.h"
#include "interpose/keys/memory.h"
#include "interpose/keys/slots.h"

static struct tde_status *counters;

/* The stripe of this process, found anew after each fork. */
static _Atomic uint64_t *stripe;

/*
 * The same for each tablespace, by the slot of its key.  Only pages that somebody has counted in
 * are there at all: one for each stripe, where there are fewer than 256 tablespaces.
 */
#define SLOT_STRIPES 16u

struct slot_counts {
    _Atomic uint64_t encrypted;
    _Atomic uint64_t decrypted;
};

typedef struct slot_counts slot_stripe[TDE_KEYS_SLOTS];

static slot_stripe *by_slot;
static struct slot_counts *own_slots;

static void choose_stripe(void)
{
    stripe = counters->stripe[(unsigned)getpid() % TDE_STATUS_STRIPES];
    own_slots = by_slot == NULL ? NULL : by_slot[(unsigned)getpid() % SLOT_STRIPES];
}

void tde_blocks_counters_create(void)
{
    counters = tde_blocks_status_create();
    if (counters == NULL)
        return;
    by_slot = tde_keys_memory_shared(SLOT_STRIPES * sizeof(slot_stripe));
    if (pthread_atfork(NULL, NULL, choose_stripe) == 0)
        choose_stripe();
}

/* Relations, WAL and ephemeral files each have a pair of words: encrypted, decrypted. */
static size_t word_of(enum tde_file_class file_class)
{
    switch (file_class) {
    case TDE_CLASS_WAL:
        return 2;
    case TDE_CLASS_EPHEMERAL:
        return 4;
    default:
        return 0;
    }
}

static void add(size_t word, size_t bytes)
{
    if (stripe != NULL && bytes > 0)
        atomic_fetch_add_explicit(&stripe[word], bytes, memory_order_relaxed);
}

/* What is counted for the tablespace of a file; NULL for what has none. */
static struct slot_counts *slot_of(const struct tde_file *file)
{
    uint32_t slot = (uint32_t)(file->key & UINT32_MAX);

    if (own_slots == NULL || file->key < 0 || slot < TDE_KEYS_FIRST_TABLESPACE ||
        slot >= TDE_KEYS_SLOTS)
        return NULL;
    return &own_slots[slot];
}

void tde_blocks_count_encrypted(const struct tde_file *file, size_t bytes)
{
    struct slot_counts *counts = slot_of(file);

    add(word_of(file->id.file_class), bytes);
    if (counts != NULL && bytes > 0)
        atomic_fetch_add_explicit(&counts->encrypted, bytes, memory_order_relaxed);
}

void tde_blocks_count_decrypted(const struct tde_file *file, size_t bytes)
{
    struct slot_counts *counts = slot_of(file);

    add(word_of(file->id.file_class) + 1, bytes);
    if (counts != NULL && bytes > 0)
        atomic_fetch_add_explicit(&counts->decrypted, bytes, memory_order_relaxed);
}

struct tde_blocks_counted tde_blocks_counted_of_class(enum tde_file_class file_class)
{
    struct tde_blocks_counted sum = {0};
    size_t word = word_of(file_class);

    for (size_t i = 0; counters != NULL && i < TDE_STATUS_STRIPES; i++) {
        sum.encrypted += atomic_load_explicit(&counters->stripe[i][word], memory_order_relaxed);
        sum.decrypted += atomic_load_explicit(&counters->stripe[i][word + 1],
                                              memory_order_relaxed);
    }
    return sum;
}

struct tde_blocks_counted tde_blocks_counted_of_slot(uint32_t slot)
{
    struct tde_blocks_counted sum = {0};

    for (size_t i = 0; by_slot != NULL && slot < TDE_KEYS_SLOTS && i < SLOT_STRIPES; i++) {
        sum.encrypted += atomic_load_explicit(&by_slot[i][slot].encrypted, memory_order_relaxed);
        sum.decrypted += atomic_load_explicit(&by_slot[i][slot].decrypted, memory_order_relaxed);
    }
    return sum;
}
