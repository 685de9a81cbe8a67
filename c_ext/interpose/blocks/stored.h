/*
 * blocks/stored.h - one data unit between a file and this thread's buffers.
 */
#ifndef TDE_INTERPOSE_BLOCKS_STORED_H
#define TDE_INTERPOSE_BLOCKS_STORED_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "interpose/blocks/buffer.h"
#include "interpose/files/table.h"

static inline size_t tde_blocks_smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

static inline uint64_t tde_blocks_unit_number(off_t offset)
{
    return (uint64_t)offset / TDE_BLOCK_SIZE;
}

static inline off_t tde_blocks_unit_start(off_t offset)
{
    return (off_t)tde_blocks_unit_number(offset) * (off_t)TDE_BLOCK_SIZE;
}

/*
 * Read the unit that starts at START, counted from FILE->base, into buffers->stored and its
 * plaintext into buffers->plain.  Returns its length, 0 behind the end of the file, or -1.
 */
ssize_t tde_blocks_load_unit(const struct tde_file *file, int fd, off_t start,
                             struct tde_buffers *buffers);

/*
 * Encode again the unit that starts at START, whose plaintext is now NEW_LENGTH bytes
 * in buffers->plain and whose stored form was OLD_LENGTH bytes in buffers->stored, and
 * write what changed: [FROM, TO) of the plaintext.  XTS blocks of 16 bytes do not depend
 * on each other, so the others keep their ciphertext and are left alone: a concurrent
 * reader of the rest of the unit never sees a state in between.
 */
int tde_blocks_store_unit(const struct tde_file *file, int fd, off_t start,
                          struct tde_buffers *buffers, size_t old_length, size_t new_length,
                          size_t from, size_t to);

#endif
