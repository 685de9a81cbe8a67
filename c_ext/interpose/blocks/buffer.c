/*
 * blocks/buffer.c - one set of buffers per thread, made at first use.
 */
#include "interpose/blocks/buffer.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

static __thread struct tde_buffers *buffers;
static pthread_key_t buffers_key;
static pthread_once_t buffers_once = PTHREAD_ONCE_INIT;

static void free_buffers(void *memory)
{
    free(memory);
    buffers = NULL;
}

static void make_buffers_key(void)
{
    pthread_key_create(&buffers_key, free_buffers);
}

struct tde_buffers *tde_blocks_buffers(void)
{
    if (buffers != NULL)
        return buffers;
    pthread_once(&buffers_once, make_buffers_key);
    buffers = aligned_alloc(TDE_DIRECT_IO_ALIGNMENT, sizeof *buffers);
    if (buffers == NULL)
        errno = ENOMEM;
    else
        pthread_setspecific(buffers_key, buffers); /* So that the thread's end frees them. */
    return buffers;
}
