/*
 * uring.c - a server that sets up io_uring in every way that liburing has.
 *
 * Compiled with IN_LIBRARY it is a liburing whose functions only say that they were reached.
 */
#include <stddef.h>
#include <stdio.h>

int io_uring_queue_init(unsigned entries, void *ring, unsigned flags);
int io_uring_queue_init_params(unsigned entries, void *ring, void *params);
int io_uring_queue_init_mem(unsigned entries, void *ring, void *params, void *memory, size_t size);
int io_uring_setup(unsigned entries, void *params);

#ifdef IN_LIBRARY
int io_uring_queue_init(unsigned entries, void *ring, unsigned flags)
{
    return ring == NULL ? -1000 : (int)(entries + flags);
}

int io_uring_queue_init_params(unsigned entries, void *ring, void *params)
{
    return ring == NULL ? -1000 : (int)entries + *(int *)params;
}

int io_uring_queue_init_mem(unsigned entries, void *ring, void *params, void *memory, size_t size)
{
    return ring == NULL || memory == NULL ? -1000 : (int)(entries + size) + *(int *)params;
}

int io_uring_setup(unsigned entries, void *params)
{
    return (int)entries + *(int *)params;
}
#else
#include "server_symbols.h"

int main(void)
{
    int params = 5;
    char ring[1];
    char memory[1];

    printf("%d %d %d %d\n", io_uring_queue_init(10, ring, 1),
           io_uring_queue_init_params(20, ring, &params),
           io_uring_queue_init_mem(30, ring, &params, memory, 3), io_uring_setup(40, &params));
    return 0;
}
#endif
