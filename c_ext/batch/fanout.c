/*
 * batch/fanout.c - one batch of blocks, worked on by several threads.
 */
#include "batch/fanout.h"

#include "batch/workers.h"
#include "crypto/sizes.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>

/*
 * 100 microseconds of work.  Starting a thread, or waking one, takes 20 to 80 on a virtual machine,
 * and now and then it runs only when the caller sleeps, so smaller batches would get slower.
 */
#define MIN_BLOCKS_PER_THREAD 64u

/*
 * A thread takes a part of its share of what is left, so the turns get smaller and all threads
 * end together; one that starts late, or loses its processor for a while, leaves work to the
 * others.  Large turns suit the processor's prefetching; no turn is worth waiting long for.
 */
#define TURNS_PER_SHARE 2u
#define MIN_BLOCKS_PER_TURN 2u
#define MAX_BLOCKS_PER_TURN 128u

struct fanout {
    const struct tde_batch *batch;
    struct tde_cipher *const *team;
    size_t size;         /* of the team */
    _Atomic size_t next; /* the first block that nobody has taken */
    atomic_bool failed;
};

/* A thread of this batch alone. */
struct helper {
    struct fanout *fanout;
    size_t place; /* of its cipher in the team */
    bool has_thread;
    pthread_t thread;
};

size_t tde_batch_fanout_size(size_t count, size_t threads)
{
    size_t useful = count / MIN_BLOCKS_PER_THREAD;

    if (useful < 1)
        return 1;
    return useful < threads ? useful : threads;
}

static int work(const struct tde_batch *batch, struct tde_cipher *cipher, size_t start,
                size_t count)
{
    size_t offset = start * TDE_BLOCK_SIZE;

    return batch->work(cipher, &batch->id, batch->first + start, batch->src + offset,
                       batch->dst + offset, count) < 0
               ? -1
               : 0;
}

static size_t blocks_per_turn(size_t left, size_t size)
{
    size_t turn = left / (size * TURNS_PER_SHARE);

    if (turn < MIN_BLOCKS_PER_TURN)
        turn = MIN_BLOCKS_PER_TURN;
    if (turn > MAX_BLOCKS_PER_TURN)
        turn = MAX_BLOCKS_PER_TURN;
    return turn < left ? turn : left;
}

/* Take *COUNT blocks, the first of which is returned; none are left when *COUNT is 0. */
static size_t take_blocks(struct fanout *fanout, size_t *count)
{
    size_t start = atomic_load(&fanout->next);

    do {
        *count = blocks_per_turn(fanout->batch->count - start, fanout->size);
    } while (!atomic_compare_exchange_weak(&fanout->next, &start, start + *count));
    return start;
}

static void take_turns(void *argument, size_t place)
{
    struct fanout *fanout = argument;
    size_t count;
    size_t start;

    for (;;) {
        start = take_blocks(fanout, &count);
        if (count == 0)
            return;
        if (work(fanout->batch, fanout->team[place], start, count) != 0)
            atomic_store(&fanout->failed, true);
    }
}

static void *help(void *argument)
{
    struct helper *helper = argument;

    take_turns(helper->fanout, helper->place);
    return NULL;
}

/* Signals stay with the threads of the program, which know what to do about them. */
static void start_threads(struct helper *helpers, size_t count)
{
    sigset_t all;
    sigset_t before;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    /* At the process limit of threads the others do all the work, only later. */
    for (size_t i = 0; i < count; i++)
        helpers[i].has_thread =
            pthread_create(&helpers[i].thread, NULL, help, &helpers[i]) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* While the workers serve another caller, this one gets threads for its batch alone. */
static void run_with_own_threads(struct fanout *fanout)
{
    struct helper helpers[TDE_MAX_THREADS];
    size_t count = fanout->size - 1;

    for (size_t i = 0; i < count; i++)
        helpers[i] = (struct helper){.fanout = fanout, .place = i + 1};
    start_threads(helpers, count);
    take_turns(fanout, 0);
    for (size_t i = 0; i < count; i++)
        if (helpers[i].has_thread)
            pthread_join(helpers[i].thread, NULL);
}

int tde_batch_fanout_run(const struct tde_batch *batch, struct tde_cipher *const *team, size_t size)
{
    struct fanout fanout = {.batch = batch, .team = team, .size = size};

    /* Sharing costs system calls, a third of the time of a call for one page. */
    if (size == 1)
        return work(batch, team[0], 0, batch->count);
    if (tde_batch_workers_open(take_turns, &fanout, size - 1)) {
        take_turns(&fanout, 0);
        tde_batch_workers_close();
    } else {
        run_with_own_threads(&fanout);
    }
    return atomic_load(&fanout.failed) ? -1 : 0;
}
