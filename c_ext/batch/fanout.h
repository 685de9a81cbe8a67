/*
 * batch/fanout.h - one batch of blocks, worked on by several threads.  No Python.
 */
#ifndef TDE_BATCH_FANOUT_H
#define TDE_BATCH_FANOUT_H

#include <sys/types.h>

#include "batch/pool.h"
#include "crypto/cipher.h"
#include "format/identity.h"

typedef ssize_t (*tde_block_function)(struct tde_cipher *cipher, const struct tde_identity *id,
                                      uint64_t first, const uint8_t *src, uint8_t *dst,
                                      size_t count);

struct tde_batch {
    tde_block_function work; /* tde_format_encrypt_blocks or tde_format_decrypt_blocks */
    struct tde_identity id;
    uint64_t first;
    const uint8_t *src;
    uint8_t *dst; /* SRC itself, or apart from it */
    size_t count;
};

/* How many of THREADS (1 to TDE_MAX_THREADS) threads are worth their trouble for COUNT blocks. */
size_t tde_batch_fanout_size(size_t count, size_t threads);

/* Share the work among the SIZE (at least 1) ciphers of TEAM; 0, or -1 as WORK does. */
int tde_batch_fanout_run(const struct tde_batch *batch, struct tde_cipher *const *team,
                         size_t size);

#endif
