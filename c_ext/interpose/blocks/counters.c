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

static struct tde_status *counters;

/* The stripe of this process, found anew after each fork. */
static _Atomic uint64_t *stripe;

static void choose_stripe(void)
{
    stripe = counters->stripe[(unsigned)getpid() % TDE_STATUS_STRIPES];
}

void tde_blocks_counters_create(void)
{
    counters = tde_blocks_status_create();
    if (counters != NULL && pthread_atfork(NULL, NULL, choose_stripe) == 0)
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

void tde_blocks_count_encrypted(enum tde_file_class file_class, size_t bytes)
{
    add(word_of(file_class), bytes);
}

void tde_blocks_count_decrypted(enum tde_file_class file_class, size_t bytes)
{
    add(word_of(file_class) + 1, bytes);
}
