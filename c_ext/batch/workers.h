/*
 * batch/workers.h - threads that stay from one batch to the next.  No Python.
 */
#ifndef TDE_BATCH_WORKERS_H
#define TDE_BATCH_WORKERS_H

#include <stdbool.h>
#include <stddef.h>

/* Runs in a worker; PLACE is 1 to the number of places, and no two workers have the same. */
typedef void (*tde_worker_function)(void *argument, size_t place);

/*
 * Let up to PLACES workers join in WORK, now and until the batch is closed.  False when the
 * workers serve another caller: then nothing has happened, and there is nothing to close.
 */
bool tde_batch_workers_open(tde_worker_function work, void *argument, size_t places);

/* Let nobody join any more and wait for those who did. */
void tde_batch_workers_close(void);

#endif
