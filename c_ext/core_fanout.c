/*
 * core_fanout.c - one batch of blocks, worked on by several threads.
 */
#include "core_fanout.h"

#include <pthread.h>
#include <signal.h>

/* Starting and joining a thread costs about as much as these blocks: some 20 microseconds. */
#define MIN_BLOCKS_PER_THREAD 16u

struct share {
    const struct tde_batch *batch;
    struct tde_cipher *cipher;
    size_t start;
    size_t count;
    int result;
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

static void *run_share(void *argument)
{
    struct share *share = argument;
    const struct tde_batch *batch = share->batch;
    size_t offset = share->start * TDE_BLOCK_SIZE;

    share->result = batch->work(share->cipher, &batch->id, batch->first + share->start,
                                batch->src + offset, batch->dst + offset, share->count);
    return NULL;
}

/* The first COUNT % SIZE shares are one block longer than the others. */
static void divide(const struct tde_batch *batch, struct tde_cipher *const *team,
                   struct share *shares, size_t size)
{
    size_t start = 0;

    for (size_t i = 0; i < size; i++) {
        size_t count = batch->count / size + (i < batch->count % size ? 1 : 0);

        shares[i] = (struct share){.batch = batch, .cipher = team[i], .start = start,
                                   .count = count};
        start += count;
    }
}

/* Signals stay with the threads of the program, which know what to do about them. */
static void start_threads(struct share *shares, size_t size)
{
    sigset_t all;
    sigset_t before;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (size_t i = 0; i < size; i++)
        shares[i].has_thread = pthread_create(&shares[i].thread, NULL, run_share, &shares[i]) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

int tde_fanout_run(const struct tde_batch *batch, struct tde_cipher *const *team, size_t size)
{
    struct share shares[TDE_MAX_THREADS];
    int result;

    divide(batch, team, shares, size);
    /* The signal mask costs two system calls, a third of the time of a call for one page. */
    if (size > 1)
        start_threads(shares + 1, size - 1);
    run_share(&shares[0]);
    result = shares[0].result;
    for (size_t i = 1; i < size; i++) {
        /* At the process limit of threads the work is done here, only later. */
        if (shares[i].has_thread)
            pthread_join(shares[i].thread, NULL);
        else
            run_share(&shares[i]);
        if (shares[i].result != 0)
            result = -1;
    }
    return result;
}
