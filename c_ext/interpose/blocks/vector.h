/*
 * blocks/vector.h - walk through the bytes of a struct iovec array.
 */
#ifndef TDE_INTERPOSE_BLOCKS_VECTOR_H
#define TDE_INTERPOSE_BLOCKS_VECTOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct tde_cursor {
    const struct iovec *iov;
    int count;
    size_t skip; /* bytes of iov[0] that are behind the cursor */
};

/* The sum of the lengths, or -1 with errno EINVAL when the vector is not acceptable. */
ssize_t tde_blocks_vector_length(const struct iovec *iov, int count);

/* True when every part is a whole number of blocks. */
bool tde_blocks_vector_is_whole(const struct iovec *iov, int count);

/* The contiguous bytes at the cursor; sets *LENGTH, 0 at the end. */
static inline uint8_t *tde_blocks_cursor_at(struct tde_cursor *cursor, size_t *length)
{
    while (cursor->count > 0 && cursor->skip == cursor->iov->iov_len) {
        cursor->iov++;
        cursor->count--;
        cursor->skip = 0;
    }
    if (cursor->count == 0) {
        *length = 0;
        return NULL;
    }
    *length = cursor->iov->iov_len - cursor->skip;
    return (uint8_t *)cursor->iov->iov_base + cursor->skip;
}

void tde_blocks_cursor_advance(struct tde_cursor *cursor, size_t length);

/* Copy LENGTH bytes out of, or into, the vector and advance. */
void tde_blocks_cursor_gather(struct tde_cursor *cursor, uint8_t *to, size_t length);
void tde_blocks_cursor_scatter(struct tde_cursor *cursor, const uint8_t *from, size_t length);

#endif
