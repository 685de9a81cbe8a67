/*
 * blocks/buffer.h - working memory of a thread for block I/O.
 */
#ifndef TDE_INTERPOSE_BLOCKS_BUFFER_H
#define TDE_INTERPOSE_BLOCKS_BUFFER_H

#include <stdint.h>

#include "crypto/sizes.h"

/* Ciphertext on its way to the file; small enough to stay in the second-level cache. */
#define TDE_BOUNCE_UNITS 16u
#define TDE_BOUNCE_SIZE (TDE_BOUNCE_UNITS * TDE_BLOCK_SIZE)

/* What O_DIRECT asks of memory. */
#define TDE_DIRECT_IO_ALIGNMENT 4096u

/* Aligned for O_DIRECT. */
struct tde_buffers {
    uint8_t bounce[TDE_BOUNCE_SIZE];
    uint8_t gather[TDE_BLOCK_SIZE]; /* a unit that the caller's vector has in pieces */
    uint8_t stored[TDE_BLOCK_SIZE]; /* a unit as it is in the file */
    uint8_t plain[TDE_BLOCK_SIZE];  /* the same unit decoded */
};

/* This thread's buffers, or NULL with errno ENOMEM. */
struct tde_buffers *tde_blocks_buffers(void);

#endif
