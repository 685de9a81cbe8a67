/*
 * batch/workers.c - threads that stay from one batch to the next.
 *
 * Starting a thread takes 20 to 80 microseconds on a virtual machine, and waking one that sleeps
 * about as long; a batch of 1 MiB takes 190.  So a worker without work looks for more of it for a
 * short while before it sleeps, as the runtimes of OpenMP do, and after a long sleep it ends.
 *
 * Nobody waits for a worker that has not got a processor yet: a worker joins a batch by taking
 * one of its places, and whoever opened the batch waits only for those who took one.
 */
#include "batch/workers.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* How long a worker looks for work before it sleeps; that much of a processor a call may cost. */
#define SPIN_NANOSECONDS 100000
/* Reading the clock takes as long as some pauses. */
#define PAUSES_PER_LOOK 32u
/* Idle threads cost memory, and Python warns of them when a process forks. */
#define SLEEP_SECONDS 1

#if defined(__x86_64__) || defined(__i386__)
#define PAUSE() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define PAUSE() __asm__ volatile("yield")
#else
#define PAUSE() ((void)0)
#endif

/* The members without _Atomic belong to whoever holds TAKEN; workers that joined read WORK. */
static struct {
    atomic_flag taken;
    size_t count;     /* workers that exist */
    uint32_t offered; /* places that the open batch had */
    tde_worker_function work;
    void *argument;
    _Atomic uint32_t sleepers;
    _Alignas(64) _Atomic uint32_t places;   /* free ones; 0 when no batch is open */
    _Alignas(64) _Atomic uint32_t finished; /* workers that joined and are done */
} workers = {.taken = ATOMIC_FLAG_INIT};

/* Sleep while *WORD is VALUE; false when LIMIT has passed. */
static bool futex_wait(_Atomic uint32_t *word, uint32_t value, const struct timespec *limit)
{
    return syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, limit, NULL, 0) == 0 ||
           errno != ETIMEDOUT;
}

static void futex_wake(_Atomic uint32_t *word, size_t sleepers)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, (int)sleepers, NULL, NULL, 0);
}

static int64_t nanoseconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/*
 * Look until *WORD is no longer VALUE, but not for long.  Whoever is looked for may wait for this
 * very processor; without the yield, two threads on one processor take 1.26 times as long as one.
 */
static void spin(_Atomic uint32_t *word, uint32_t value)
{
    int64_t end = nanoseconds() + SPIN_NANOSECONDS;

    do {
        for (unsigned i = 0; i < PAUSES_PER_LOOK; i++) {
            if (atomic_load_explicit(word, memory_order_relaxed) != value)
                return;
            PAUSE();
        }
        sched_yield();
    } while (nanoseconds() < end);
}

/*
 * The only step that joins a batch.  PLACES may have been closed and opened again before it
 * succeeds; then it is the new batch that is joined, and nothing of the old one has been read.
 */
static uint32_t take_place(void)
{
    uint32_t place = atomic_load(&workers.places);

    while (place != 0 && !atomic_compare_exchange_weak(&workers.places, &place, place - 1))
        continue;
    return place;
}

/* False when somebody may be opening a batch; he has counted on this worker. */
static bool leave(void)
{
    if (atomic_flag_test_and_set(&workers.taken))
        return false;
    workers.count--;
    atomic_flag_clear(&workers.taken);
    return true;
}

/* Whoever opens a batch looks at SLEEPERS after PLACES, so one of the two sees the other. */
static bool sleep_until_woken(void)
{
    const struct timespec limit = {.tv_sec = SLEEP_SECONDS};
    bool woken;

    atomic_fetch_add(&workers.sleepers, 1);
    woken = futex_wait(&workers.places, 0, &limit);
    atomic_fetch_sub(&workers.sleepers, 1);
    return woken;
}

static void *serve(void *unused)
{
    uint32_t place;

    for (;;) {
        spin(&workers.places, 0);
        place = take_place();
        if (place != 0) {
            workers.work(workers.argument, place);
            /* What the caller owns may be gone from here on. */
            atomic_fetch_add(&workers.finished, 1);
            futex_wake(&workers.finished, 1);
        } else if (!sleep_until_woken() && leave()) {
            return unused;
        }
    }
}

/* Signals stay with the threads of the program, which know what to do about them. */
static void start_workers(size_t wanted)
{
    sigset_t all;
    sigset_t before;
    pthread_t thread;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    /* At the process limit of threads those who are there do all the work, only later. */
    while (workers.count < wanted && pthread_create(&thread, NULL, serve, NULL) == 0) {
        pthread_detach(thread);
        workers.count++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* A child has none of the threads, whatever they were doing when it was forked. */
static void forget_workers(void)
{
    workers.count = 0;
    atomic_store(&workers.sleepers, 0);
    atomic_store(&workers.places, 0);
    atomic_store(&workers.finished, 0);
    atomic_flag_clear(&workers.taken);
}

/* While the module is loaded, because a fork during the first batch must find it done. */
__attribute__((constructor)) static void prepare_for_fork(void)
{
    /* Workers that cannot be forgotten must not exist: they stay taken for ever. */
    if (pthread_atfork(NULL, NULL, forget_workers) != 0)
        atomic_flag_test_and_set(&workers.taken);
}

bool tde_batch_workers_open(tde_worker_function work, void *argument, size_t places)
{
    if (atomic_flag_test_and_set(&workers.taken))
        return false;
    workers.work = work;
    workers.argument = argument;
    workers.offered = (uint32_t)places;
    atomic_store(&workers.places, workers.offered);
    if (atomic_load(&workers.sleepers) > 0)
        futex_wake(&workers.places, places);
    if (workers.count < places)
        start_workers(places);
    return true;
}

void tde_batch_workers_close(void)
{
    uint32_t joined = workers.offered - atomic_exchange(&workers.places, 0);
    uint32_t finished;

    while ((finished = atomic_load(&workers.finished)) != joined) {
        spin(&workers.finished, finished);
        futex_wait(&workers.finished, finished, NULL);
    }
    atomic_store(&workers.finished, 0);
    atomic_flag_clear(&workers.taken);
}
