/*
 * blocks/write.c - writing byte ranges of encrypted files.
 *
 * Whole blocks are encrypted on their way into a bounce buffer, because the caller's
 * memory is shared with other processes.  What does not cover a unit (the walreceiver)
 * is patched into a copy of it.
 */
#include <stdbool.h>
#include <string.h>

#include "crypto/cipher.h"
#include "format/block.h"
#include "interpose/blocks/range.h"
#include "interpose/blocks/stored.h"
#include "interpose/blocks/unit.h"
#include "interpose/blocks/vector.h"
#include "interpose/files/reach.h"
#include "interpose/libc/symbols.h"
#include "interpose/libc/transfer.h"

/* Write LENGTH bytes of the vector that do not cover the unit at OFFSET.  0 or -1. */
static int write_partial(const struct tde_file *file, int fd, struct tde_cursor *cursor,
                         size_t length, off_t offset)
{
    struct tde_buffers *buffers = tde_blocks_buffers();
    off_t start = tde_blocks_unit_start(offset);
    size_t skip = (size_t)(offset - start);
    size_t old_length;
    ssize_t stored;

    if (buffers == NULL)
        return -1;
    stored = tde_blocks_load_unit(file, fd, start, buffers);
    if (stored < 0)
        return -1;
    old_length = (size_t)stored;
    memset(buffers->plain + old_length, 0, TDE_BLOCK_SIZE - old_length);
    tde_blocks_cursor_gather(cursor, buffers->plain + skip, length);
    return tde_blocks_store_unit(file, fd, start, buffers, old_length,
                                 old_length > skip + length ? old_length : skip + length, skip,
                                 skip + length);
}

/*
 * What a file gets when it is extended.  Nobody writes to it, so that it is one page of memory again
 * and again, which stays in the cache; and aligned for O_DIRECT.
 */
static _Alignas(TDE_DIRECT_IO_ALIGNMENT) uint8_t zeros[TDE_BOUNCE_SIZE];

/* Whether the next LENGTH bytes of the vector are zeros; nearly always the first ones tell. */
static bool is_zero(struct tde_cursor cursor, size_t length)
{
    while (length > 0) {
        size_t here;
        const uint8_t *from = tde_blocks_cursor_at(&cursor, &here);
        size_t step = tde_blocks_smaller(here, length);

        if (!tde_crypto_is_zero(from, step))
            return false;
        tde_blocks_cursor_advance(&cursor, step);
        length -= step;
    }
    return true;
}

/* What is at the cursor is next. */
static void prefetch(struct tde_cursor *cursor)
{
    size_t here;
    const uint8_t *from = tde_blocks_cursor_at(cursor, &here);

    if (here >= TDE_BLOCK_SIZE)
        tde_format_prefetch_block(from);
}

/* Encrypt COUNT units of the vector into the bounce buffer. */
static int encode_units(const struct tde_file *file, struct tde_cursor *cursor, uint64_t unit,
                        struct tde_buffers *buffers, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        size_t here;
        const uint8_t *from = tde_blocks_cursor_at(cursor, &here);

        if (here < TDE_BLOCK_SIZE) {
            tde_blocks_cursor_gather(cursor, buffers->gather, TDE_BLOCK_SIZE);
            from = buffers->gather;
        } else {
            tde_blocks_cursor_advance(cursor, TDE_BLOCK_SIZE);
        }
        if (i + 1 < count)
            prefetch(cursor);
        if (tde_blocks_encode_units(file, unit + i, from, buffers->bounce + i * TDE_BLOCK_SIZE,
                                    1) != 0)
            return -1;
    }
    return 0;
}

/*
 * Write up to LENGTH bytes, whole units.  Returns the bytes of the units that are
 * wholly written, less than asked with errno after an error, or -1.  Part of a unit is
 * never reported: its caller would go on in the middle of it.
 */
static ssize_t write_whole(const struct tde_file *file, int fd, struct tde_cursor *cursor,
                           size_t length, off_t offset)
{
    struct tde_buffers *buffers = tde_blocks_buffers();
    const uint8_t *encoded = zeros;
    size_t written;

    if (buffers == NULL)
        return -1;
    prefetch(cursor);
    if (is_zero(*cursor, length)) {
        tde_blocks_cursor_advance(cursor, length);
    } else {
        encoded = buffers->bounce;
        if (encode_units(file, cursor, tde_blocks_unit_number(offset), buffers,
                         length / TDE_BLOCK_SIZE) != 0)
            return -1;
    }
    written = tde_libc_write_fully(fd, encoded, length, file->base + offset);
    return (ssize_t)(written - written % TDE_BLOCK_SIZE);
}

/*
 * A write behind the end of the file leaves a gap that reads as zeros.  Where the last
 * unit is short and not all zeros, the zeros that now follow in it must be encoded.
 */
static int close_gap(struct tde_file *file, int fd, off_t offset)
{
    uint64_t cuts = tde_files_reach_cuts();
    off_t size;

    if (tde_files_reach_includes(file, file->base + offset))
        return 0;
    size = tde_libc_file_size(fd);
    if (size < 0)
        return -1;
    tde_files_reach_note(file, size, cuts);
    return size - file->base < offset
               ? tde_blocks_resize(file, fd, tde_blocks_unit_start(offset))
               : 0;
}

ssize_t tde_blocks_pwritev(struct tde_file *file, int fd, const struct iovec *iov,
                           int count, off_t offset)
{
    uint64_t cuts = tde_files_reach_cuts();
    struct tde_cursor cursor = {iov, count, 0};
    ssize_t total = tde_blocks_vector_length(iov, count);
    size_t done = 0;
    bool reached;

    if (total < 0)
        return -1;
    if (offset < 0 || total == 0)
        return tde_libc()->pwritev(fd, iov, count, offset);
    reached = tde_files_reach_includes(file, file->base + offset + total);
    if (!reached && close_gap(file, fd, offset) != 0)
        return -1;
    while (done < (size_t)total) {
        off_t at = offset + (off_t)done;
        size_t rest = (size_t)total - done;
        size_t asked =
            tde_blocks_smaller(rest, TDE_BLOCK_SIZE - (size_t)(at - tde_blocks_unit_start(at)));

        if (asked == TDE_BLOCK_SIZE) {
            asked = tde_blocks_smaller(rest - rest % TDE_BLOCK_SIZE, TDE_BOUNCE_SIZE);
            ssize_t n = write_whole(file, fd, &cursor, asked, at);
            if (n < (ssize_t)asked) {
                done += n > 0 ? (size_t)n : 0;
                return done > 0 ? (ssize_t)done : -1;
            }
        } else if (write_partial(file, fd, &cursor, asked, at) != 0) {
            return done > 0 ? (ssize_t)done : -1;
        }
        done += asked;
    }
    if (!reached)
        tde_files_reach_note(file, file->base + offset + total, cuts);
    return (ssize_t)done;
}
