/*
 * blocks/vector.c - see blocks/vector.h; pure.
 */
#include "interpose/blocks/vector.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

#include "crypto/sizes.h"

ssize_t tde_blocks_vector_length(const struct iovec *iov, int count)
{
    size_t total = 0;

    if (count < 0 || count > IOV_MAX) {
        errno = EINVAL;
        return -1;
    }
    for (int i = 0; i < count; i++) {
        if (iov[i].iov_len > (size_t)SSIZE_MAX - total) {
            errno = EINVAL;
            return -1;
        }
        total += iov[i].iov_len;
    }
    return (ssize_t)total;
}

bool tde_blocks_vector_is_whole(const struct iovec *iov, int count)
{
    for (int i = 0; i < count; i++)
        if (iov[i].iov_len % TDE_BLOCK_SIZE != 0)
            return false;
    return true;
}

void tde_blocks_cursor_advance(struct tde_cursor *cursor, size_t length)
{
    size_t here;

    while (length > 0 && tde_blocks_cursor_at(cursor, &here) != NULL) {
        size_t step = length < here ? length : here;

        cursor->skip += step;
        length -= step;
    }
}

void tde_blocks_cursor_gather(struct tde_cursor *cursor, uint8_t *to, size_t length)
{
    while (length > 0) {
        size_t here;
        const uint8_t *from = tde_blocks_cursor_at(cursor, &here);
        size_t step = length < here ? length : here;

        if (from == NULL)
            return;
        memcpy(to, from, step);
        cursor->skip += step;
        to += step;
        length -= step;
    }
}

void tde_blocks_cursor_scatter(struct tde_cursor *cursor, const uint8_t *from, size_t length)
{
    while (length > 0) {
        size_t here;
        uint8_t *to = tde_blocks_cursor_at(cursor, &here);
        size_t step = length < here ? length : here;

        if (to == NULL)
            return;
        memcpy(to, from, step);
        cursor->skip += step;
        from += step;
        length -= step;
    }
}
