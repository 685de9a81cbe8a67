/*
 * blocks/counters.c - striped counters in a shared memory file.
 *
 * One cache line per stripe and a stripe chosen by process, so that backends on
 * different cores rarely write to the same line.
 */
#include "interpose/blocks/counters.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <unistd.h>

#include "interpose/libc/symbols.h"

#define STRIPES 64u
#define WORDS_PER_STRIPE 8u
#define COUNTERS_MAGIC 0x5444454354523031u

struct counters {
    uint64_t magic;
    uint64_t stripes;
    uint64_t words_per_stripe;
    uint64_t words_before_stripes;
    uint64_t padding[WORDS_PER_STRIPE - 4];
    _Atomic uint64_t stripe[STRIPES][WORDS_PER_STRIPE];
};

static struct counters *counters;

/* The stripe of this process, found anew after each fork. */
static _Atomic uint64_t *stripe;

static void choose_stripe(void)
{
    stripe = counters->stripe[(unsigned)getpid() % STRIPES];
}

void tde_blocks_counters_create(void)
{
    int fd = memfd_create("tde-counters", MFD_CLOEXEC);
    struct counters *made;

    if (fd < 0)
        return;
    if (tde_libc()->ftruncate(fd, (off_t)sizeof *made) != 0) {
        tde_libc()->close(fd);
        return;
    }
    made = tde_libc()->mmap(NULL, sizeof *made, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (made == MAP_FAILED) {
        tde_libc()->close(fd);
        return;
    }
    made->stripes = STRIPES;
    made->words_per_stripe = WORDS_PER_STRIPE;
    made->words_before_stripes = offsetof(struct counters, stripe) / sizeof(uint64_t);
    made->magic = COUNTERS_MAGIC;
    if (pthread_atfork(NULL, NULL, choose_stripe) != 0) {
        munmap(made, sizeof *made);
        tde_libc()->close(fd);
        return;
    }
    counters = made; /* The descriptor stays open: it is how others find the counters. */
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
