/*
 * blocks/read.c - reading byte ranges of encrypted files.
 *
 * PostgreSQL reads whole blocks nearly always; those are decrypted in place in the
 * caller's buffer.  What does not cover a unit (WALRead) goes through a copy of it.
 *
 * The kernel copies an AES block of a page undivided only into memory that lies in cache lines
 * as the page does.  Into any other it may deliver a block that is half of before a concurrent
 * write and half of after it, and that decrypts to noise, the bytes that nobody writes included.
 * So such memory never gets ciphertext: it is read into the bounce buffer and decrypted from there.
 */
#include <stdbool.h>
#include <string.h>

#include "interpose/blocks/range.h"
#include "interpose/blocks/stored.h"
#include "interpose/blocks/unit.h"
#include "interpose/blocks/vector.h"
#include "interpose/libc/symbols.h"

static bool is_aligned(const void *memory)
{
    return (uintptr_t)memory % TDE_CACHE_LINE == 0;
}

/* Read up to LENGTH bytes that do not cover a unit.  As pread. */
static ssize_t read_partial(const struct tde_file *file, int fd, uint8_t *to, size_t length,
                            off_t offset)
{
    struct tde_buffers *buffers = tde_blocks_buffers();
    off_t start = tde_blocks_unit_start(offset);
    size_t skip = (size_t)(offset - start);
    ssize_t stored;

    if (buffers == NULL)
        return -1;
    stored = tde_blocks_load_unit(file, fd, start, buffers);
    if (stored < 0)
        return -1;
    if ((size_t)stored <= skip)
        return 0;
    length = tde_blocks_smaller(length, (size_t)stored - skip);
    memcpy(to, buffers->plain + skip, length);
    return (ssize_t)length;
}

/* What read_whole may be asked for at once: memory that is not aligned takes the bounce buffer. */
static size_t whole_units(const void *to, size_t length)
{
    size_t whole = length - length % TDE_BLOCK_SIZE;

    return is_aligned(to) ? whole : tde_blocks_smaller(whole, TDE_BOUNCE_SIZE);
}

/*
 * Read LENGTH bytes, whole units, into TO.  At the end of the file the last unit may be
 * short; the read has then only part of it and it is read again by itself.
 */
static ssize_t read_whole(const struct tde_file *file, int fd, uint8_t *to, size_t length,
                          off_t offset)
{
    struct tde_buffers *buffers = is_aligned(to) ? NULL : tde_blocks_buffers();
    uint8_t *stored = is_aligned(to) ? to : buffers == NULL ? NULL : buffers->bounce;
    ssize_t got;
    size_t units;

    if (stored == NULL)
        return -1;
    got = tde_libc()->pread(fd, stored, length, offset);
    if (got <= 0)
        return got;
    units = (size_t)got / TDE_BLOCK_SIZE;
    if (tde_blocks_decode_units(file, tde_blocks_unit_number(offset), stored, to, units) != 0)
        return -1;
    if ((size_t)got % TDE_BLOCK_SIZE != 0) {
        size_t whole = units * TDE_BLOCK_SIZE;
        ssize_t rest = read_partial(file, fd, to + whole, TDE_BLOCK_SIZE,
                                    offset + (off_t)whole);

        if (rest < 0)
            return units > 0 ? (ssize_t)whole : -1;
        got = (ssize_t)whole + rest;
    }
    return got;
}

ssize_t tde_blocks_pread(const struct tde_file *file, int fd, void *to, size_t length,
                         off_t offset)
{
    size_t done = 0;

    if (offset < 0 || length == 0)
        return tde_libc()->pread(fd, to, length, offset);
    while (done < length) {
        off_t at = offset + (off_t)done;
        size_t rest = length - done;
        size_t whole = whole_units((uint8_t *)to + done, rest);
        size_t asked;
        ssize_t n;

        if (at % (off_t)TDE_BLOCK_SIZE == 0 && whole > 0) {
            asked = whole;
            n = read_whole(file, fd, (uint8_t *)to + done, asked, at);
        } else {
            asked = tde_blocks_smaller(rest,
                                       TDE_BLOCK_SIZE - (size_t)(at - tde_blocks_unit_start(at)));
            n = read_partial(file, fd, (uint8_t *)to + done, asked, at);
        }
        if (n < 0)
            return done > 0 ? (ssize_t)done : -1;
        done += (size_t)n;
        if ((size_t)n < asked)
            break;
    }
    return (ssize_t)done;
}

/* True when every part is a whole number of blocks in memory that the kernel may read into. */
static bool is_block_vector(const struct iovec *iov, int count)
{
    for (int i = 0; i < count; i++)
        if (!is_aligned(iov[i].iov_base))
            return false;
    return tde_blocks_vector_is_whole(iov, count);
}

/*
 * A vector of whole blocks (PostgreSQL 17 and later): one system call, decrypt in place.  As in
 * read_whole, a short last unit is read again by itself.
 */
static ssize_t read_block_vector(const struct tde_file *file, int fd, const struct iovec *iov,
                                 int count, off_t offset)
{
    struct tde_cursor cursor = {iov, count, 0};
    ssize_t got = tde_libc()->preadv(fd, iov, count, offset);
    size_t whole = got <= 0 ? 0 : (size_t)got - (size_t)got % TDE_BLOCK_SIZE;
    size_t here;
    ssize_t rest;

    if (got <= 0)
        return got;
    for (size_t done = 0; done < whole;) {
        uint8_t *at = tde_blocks_cursor_at(&cursor, &here);
        size_t length = tde_blocks_smaller(whole - done, here);

        if (tde_blocks_decode_units(file, tde_blocks_unit_number(offset + (off_t)done), at, at,
                                    length / TDE_BLOCK_SIZE) != 0)
            return -1;
        tde_blocks_cursor_advance(&cursor, length);
        done += length;
    }
    if ((size_t)got == whole)
        return got;
    rest = read_partial(file, fd, tde_blocks_cursor_at(&cursor, &here), TDE_BLOCK_SIZE,
                        offset + (off_t)whole);
    if (rest < 0)
        return whole > 0 ? (ssize_t)whole : -1;
    return (ssize_t)whole + rest;
}

ssize_t tde_blocks_preadv(const struct tde_file *file, int fd, const struct iovec *iov,
                          int count, off_t offset)
{
    struct tde_cursor cursor = {iov, count, 0};
    ssize_t length = tde_blocks_vector_length(iov, count);
    struct tde_buffers *buffers;
    size_t done = 0;

    if (length < 0)
        return -1;
    if (count == 1)
        return tde_blocks_pread(file, fd, iov->iov_base, iov->iov_len, offset);
    if (offset < 0 || length == 0)
        return tde_libc()->preadv(fd, iov, count, offset);
    if (offset % (off_t)TDE_BLOCK_SIZE == 0 && is_block_vector(iov, count))
        return read_block_vector(file, fd, iov, count, offset);
    buffers = tde_blocks_buffers();
    if (buffers == NULL)
        return -1;
    while (done < (size_t)length) {
        off_t at = offset + (off_t)done;
        size_t skip = (size_t)(at - tde_blocks_unit_start(at));
        /* To the end of a unit first, so that whole units lie aligned in the buffer. */
        size_t asked = tde_blocks_smaller((size_t)length - done,
                                          skip > 0 ? TDE_BLOCK_SIZE - skip : TDE_BOUNCE_SIZE);
        ssize_t n = tde_blocks_pread(file, fd, buffers->bounce, asked, at);

        if (n < 0)
            return done > 0 ? (ssize_t)done : -1;
        tde_blocks_cursor_scatter(&cursor, buffers->bounce, (size_t)n);
        done += (size_t)n;
        if ((size_t)n < asked)
            break;
    }
    return (ssize_t)done;
}
