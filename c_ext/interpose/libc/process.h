/*
 * libc/process.h - what the kernel says of this process.
 */
#ifndef TDE_INTERPOSE_LIBC_PROCESS_H
#define TDE_INTERPOSE_LIBC_PROCESS_H

#include <stdint.h>

/* When it started, in clock ticks since the machine did: field 22 of /proc/self/stat, or 0. */
uint64_t tde_libc_start_time(void);

#endif
