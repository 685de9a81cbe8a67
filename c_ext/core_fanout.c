/*
 * core_fanout.c - one batch of blocks, worked on by several threads.
 */
#include "core_fanout.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>

/*
 * 100 microseconds of work.  Starting a thread takes 20 to 80 on a virtual machine, and now and
 * then it starts only when the caller sleeps, so smaller batches would get slower.
 */
#define MIN_BLOCKS_PER_THREAD 64u

/*
 * What a thread takes at a time is a small part of its share: one that starts late, or loses its
 * processor for a while, leaves work to the others instead of making them wait.  Larger turns
 * suit the processor's prefetching, so they grow with the batch, up to 256 KiB.
 */
#define TURNS_PER_THREAD 16u
#define MIN_BLOCKS_PER_TURN 4u
#define MAX_BLOCKS_PER_TURN 32u

struct fanout {
    const struct tde_batch *batch;
    size_t turn;         /* blocks that a thread takes at a time */
    _Atomic size_t next; /* the first block that nobody has taken */
    atomic_bool failed;
};

struct member {
    struct fanout *fanout;
    struct tde_cipher *cipher;
    bool has_thread;
    pthread_t thread;
};

size_t tde_fanout_size(size_t count, size_t threads)
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
                       batch->dst + offset, count);
}

static void *take_turns(void *argument)
{
    struct member *member = argument;
    struct fanout *fanout = member->fanout;
    size_t count = fanout->batch->count;
    size_t start;

    while ((start = atomic_fetch_add(&fanout->next, fanout->turn)) < count) {
        size_t left = count - start;

        if (work(fanout->batch, member->cipher, start,
                 left < fanout->turn ? left : fanout->turn) != 0)
            atomic_store(&fanout->failed, true);
    }
    return NULL;
}

static size_t blocks_per_turn(size_t count, size_t size)
{
    size_t turn = count / (size * TURNS_PER_THREAD);

    if (turn < MIN_BLOCKS_PER_TURN)
        return MIN_BLOCKS_PER_TURN;
    return turn < MAX_BLOCKS_PER_TURN ? turn : MAX_BLOCKS_PER_TURN;
}

/* Signals stay with the threads of the program, which know what to do about them. */
static void start_threads(struct member *members, size_t size)
{
    sigset_t all;
    sigset_t before;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    /* At the process limit of threads the others do all the work, only later. */
    for (size_t i = 0; i < size; i++)
        members[i].has_thread =
            pthread_create(&members[i].thread, NULL, take_turns, &members[i]) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

int tde_fanout_run(const struct tde_batch *batch, struct tde_cipher *const *team, size_t size)
{
    struct fanout fanout = {.batch = batch, .turn = blocks_per_turn(batch->count, size)};
    struct member members[TDE_MAX_THREADS];

    /* Threads and signal masks cost system calls, a third of the time of a call for one page. */
    if (size == 1)
        return work(batch, team[0], 0, batch->count);
    for (size_t i = 0; i < size; i++)
        members[i] = (struct member){.fanout = &fanout, .cipher = team[i]};
    start_threads(members + 1, size - 1);
    take_turns(&members[0]);
    for (size_t i = 1; i < size; i++)
        if (members[i].has_thread)
            pthread_join(members[i].thread, NULL);
    return atomic_load(&fanout.failed) ? -1 : 0;
}
