/*
 * io_block.c - byte ranges of encrypted files, unit by unit.
 *
 * PostgreSQL reads and writes whole blocks nearly always; those are encrypted on their
 * way into a bounce buffer, or decrypted in place in the caller's buffer.  What does
 * not cover a unit (WALRead, the walreceiver) goes through a copy of the whole unit.
 */
#include "io_block.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io_buffer.h"
#include "io_symbols.h"
#include "io_unit.h"
#include "io_vector.h"

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

static off_t unit_start(off_t offset)
{
    return offset - offset % (off_t)TDE_BLOCK_SIZE;
}

static uint64_t unit_number(off_t offset)
{
    return (uint64_t)offset / TDE_BLOCK_SIZE;
}

/* Read until LENGTH bytes, the end of the file or an error; the bytes read, or -1. */
static ssize_t read_fully(int fd, uint8_t *to, size_t length, off_t offset)
{
    size_t done = 0;

    while (done < length) {
        ssize_t n = tde_libc()->pread(fd, to + done, length - done, offset + (off_t)done);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        if (n == 0)
            break;
        done += (size_t)n;
    }
    return (ssize_t)done;
}

/* Write until everything is written or an error; the bytes written, with errno if short. */
static size_t write_fully(int fd, const uint8_t *from, size_t length, off_t offset)
{
    size_t done = 0;

    while (done < length) {
        ssize_t n = tde_libc()->pwrite(fd, from + done, length - done, offset + (off_t)done);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            break;
        if (n == 0) {
            errno = ENOSPC; /* What PostgreSQL assumes of a write that writes nothing. */
            break;
        }
        done += (size_t)n;
    }
    return done;
}

static off_t file_size(int fd)
{
    struct stat status;

    return fstat(fd, &status) == 0 ? status.st_size : -1;
}

/*
 * Read the unit that starts at START into buffers->stored and its plaintext into
 * buffers->plain.  Returns its length, 0 behind the end of the file, or -1.
 */
static ssize_t load_unit(const struct tde_file *file, int fd, off_t start,
                         struct tde_buffers *buffers)
{
    ssize_t length = read_fully(fd, buffers->stored, TDE_BLOCK_SIZE, start);

    if (length > 0 && tde_unit_decode(file, unit_number(start), buffers->stored,
                                      buffers->plain, (size_t)length) != 0)
        return -1;
    return length;
}

/* Read up to LENGTH bytes that do not cover a unit.  As pread. */
static ssize_t read_partial(const struct tde_file *file, int fd, uint8_t *to, size_t length,
                            off_t offset)
{
    struct tde_buffers *buffers = tde_buffers_get();
    off_t start = unit_start(offset);
    size_t skip = (size_t)(offset - start);
    ssize_t stored;

    if (buffers == NULL)
        return -1;
    stored = load_unit(file, fd, start, buffers);
    if (stored < 0)
        return -1;
    if ((size_t)stored <= skip)
        return 0;
    length = smaller(length, (size_t)stored - skip);
    memcpy(to, buffers->plain + skip, length);
    return (ssize_t)length;
}

/*
 * Read LENGTH bytes, whole units, into TO.  At the end of the file the last unit may be
 * short; the read has then only part of it and it is read again by itself.
 */
static ssize_t read_whole(const struct tde_file *file, int fd, uint8_t *to, size_t length,
                          off_t offset)
{
    ssize_t got = tde_libc()->pread(fd, to, length, offset);
    size_t units;

    if (got <= 0)
        return got;
    units = (size_t)got / TDE_BLOCK_SIZE;
    if (tde_units_decode(file, unit_number(offset), to, to, units) != 0)
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

ssize_t tde_block_pread(const struct tde_file *file, int fd, void *to, size_t length,
                        off_t offset)
{
    size_t done = 0;

    if (offset < 0 || length == 0)
        return tde_libc()->pread(fd, to, length, offset);
    while (done < length) {
        off_t at = offset + (off_t)done;
        size_t rest = length - done;
        size_t whole = rest - rest % TDE_BLOCK_SIZE;
        size_t asked;
        ssize_t n;

        if (at % (off_t)TDE_BLOCK_SIZE == 0 && whole > 0) {
            asked = whole;
            n = read_whole(file, fd, (uint8_t *)to + done, asked, at);
        } else {
            asked = smaller(rest, TDE_BLOCK_SIZE - (size_t)(at - unit_start(at)));
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

/* A vector of whole blocks (PostgreSQL 17 and later): one system call, decrypt in place. */
static ssize_t read_block_vector(const struct tde_file *file, int fd, const struct iovec *iov,
                                 int count, off_t offset)
{
    ssize_t got = tde_libc()->preadv(fd, iov, count, offset);
    size_t left = got < 0 ? 0 : (size_t)got / TDE_BLOCK_SIZE;
    uint64_t unit = unit_number(offset);

    if (got > 0 && left == 0) /* Part of one unit: the end of the file. */
        return read_partial(file, fd, iov->iov_base, TDE_BLOCK_SIZE, offset);
    for (int i = 0; i < count && left > 0; i++) {
        size_t units = smaller(left, iov[i].iov_len / TDE_BLOCK_SIZE);

        if (tde_units_decode(file, unit, iov[i].iov_base, iov[i].iov_base, units) != 0)
            return -1;
        unit += units;
        left -= units;
    }
    /* A short read may leave out the end; the caller asks again for it. */
    return got < 0 ? got : got - got % (ssize_t)TDE_BLOCK_SIZE;
}

ssize_t tde_block_preadv(const struct tde_file *file, int fd, const struct iovec *iov,
                         int count, off_t offset)
{
    struct tde_cursor cursor = {iov, count, 0};
    ssize_t length = tde_vector_length(iov, count);
    struct tde_buffers *buffers;
    size_t done = 0;

    if (length < 0)
        return -1;
    if (count == 1)
        return tde_block_pread(file, fd, iov->iov_base, iov->iov_len, offset);
    if (offset < 0 || length == 0)
        return tde_libc()->preadv(fd, iov, count, offset);
    if (offset % (off_t)TDE_BLOCK_SIZE == 0 && iov->iov_len > 0 &&
        tde_vector_is_blocks(iov, count))
        return read_block_vector(file, fd, iov, count, offset);
    buffers = tde_buffers_get();
    if (buffers == NULL)
        return -1;
    while (done < (size_t)length) {
        size_t asked = smaller((size_t)length - done, TDE_BOUNCE_SIZE);
        ssize_t n = tde_block_pread(file, fd, buffers->bounce, asked, offset + (off_t)done);

        if (n < 0)
            return done > 0 ? (ssize_t)done : -1;
        tde_cursor_scatter(&cursor, buffers->bounce, (size_t)n);
        done += (size_t)n;
        if ((size_t)n < asked)
            break;
    }
    return (ssize_t)done;
}

/*
 * Encode again the unit that starts at START, whose plaintext is now NEW_LENGTH bytes
 * in buffers->plain and whose stored form was OLD_LENGTH bytes in buffers->stored, and
 * write what changed: [FROM, TO) of the plaintext.  XTS blocks of 16 bytes do not depend
 * on each other, so the others keep their ciphertext and are left alone: a concurrent
 * reader of the rest of the unit never sees a state in between.
 */
static int store_unit(const struct tde_file *file, int fd, off_t start,
                      struct tde_buffers *buffers, size_t old_length, size_t new_length,
                      size_t from, size_t to)
{
    bool was_zero = tde_is_zero(buffers->stored, old_length);
    uint8_t *encoded = buffers->bounce;

    if (tde_unit_encode(file, unit_number(start), buffers->plain, encoded, new_length) != 0)
        return -1;
    if (from > old_length)
        from = old_length; /* The gap behind the old end is part of the unit now. */
    from -= from % TDE_CIPHER_BLOCK;
    to = smaller(to + (TDE_CIPHER_BLOCK - to % TDE_CIPHER_BLOCK) % TDE_CIPHER_BLOCK,
                 new_length);
    if (was_zero != tde_is_zero(encoded, new_length)) {
        from = 0; /* The zero rule changes the stored form of every byte. */
        to = new_length;
    }
    if (write_fully(fd, encoded + from, to - from, start + (off_t)from) != to - from)
        return -1;
    return 0;
}

/* Write LENGTH bytes of the vector that do not cover the unit at OFFSET.  0 or -1. */
static int write_partial(const struct tde_file *file, int fd, struct tde_cursor *cursor,
                         size_t length, off_t offset)
{
    struct tde_buffers *buffers = tde_buffers_get();
    off_t start = unit_start(offset);
    size_t skip = (size_t)(offset - start);
    size_t old_length;
    ssize_t stored;

    if (buffers == NULL)
        return -1;
    stored = load_unit(file, fd, start, buffers);
    if (stored < 0)
        return -1;
    old_length = (size_t)stored;
    memset(buffers->plain + old_length, 0, TDE_BLOCK_SIZE - old_length);
    tde_cursor_gather(cursor, buffers->plain + skip, length);
    return store_unit(file, fd, start, buffers, old_length,
                      old_length > skip + length ? old_length : skip + length, skip,
                      skip + length);
}

/* Encrypt COUNT units of the vector into the bounce buffer, without changing the vector. */
static int encode_units(const struct tde_file *file, struct tde_cursor *cursor, uint64_t unit,
                        struct tde_buffers *buffers, size_t count)
{
    size_t done = 0;

    while (done < count) {
        size_t here;
        const uint8_t *from = tde_cursor_at(cursor, &here);
        size_t units = smaller(here / TDE_BLOCK_SIZE, count - done);

        if (units == 0) {
            tde_cursor_gather(cursor, buffers->gather, TDE_BLOCK_SIZE);
            from = buffers->gather;
            units = 1;
        } else {
            tde_cursor_advance(cursor, units * TDE_BLOCK_SIZE);
        }
        if (tde_units_encode(file, unit + done, from, buffers->bounce + done * TDE_BLOCK_SIZE,
                             units) != 0)
            return -1;
        done += units;
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
    struct tde_buffers *buffers = tde_buffers_get();
    size_t written;

    if (buffers == NULL)
        return -1;
    if (encode_units(file, cursor, unit_number(offset), buffers, length / TDE_BLOCK_SIZE) != 0)
        return -1;
    written = write_fully(fd, buffers->bounce, length, offset);
    return (ssize_t)(written - written % TDE_BLOCK_SIZE);
}

/*
 * A write behind the end of the file leaves a gap that reads as zeros.  Where the last
 * unit is short and not all zeros, the zeros that now follow in it must be encoded.
 */
static int close_gap(const struct tde_file *file, int fd, off_t offset)
{
    off_t size = file_size(fd);

    if (size < 0)
        return -1;
    return size < offset ? tde_block_resize(file, fd, unit_start(offset)) : 0;
}

ssize_t tde_block_pwritev(const struct tde_file *file, int fd, const struct iovec *iov,
                          int count, off_t offset)
{
    struct tde_cursor cursor = {iov, count, 0};
    ssize_t total = tde_vector_length(iov, count);
    size_t done = 0;

    if (total < 0)
        return -1;
    if (offset < 0 || total == 0)
        return tde_libc()->pwritev(fd, iov, count, offset);
    if (close_gap(file, fd, offset) != 0)
        return -1;
    while (done < (size_t)total) {
        off_t at = offset + (off_t)done;
        size_t rest = (size_t)total - done;
        size_t asked = smaller(rest, TDE_BLOCK_SIZE - (size_t)(at - unit_start(at)));

        if (asked == TDE_BLOCK_SIZE) {
            asked = smaller(rest - rest % TDE_BLOCK_SIZE, TDE_BOUNCE_SIZE);
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
    return (ssize_t)done;
}

int tde_block_resize(const struct tde_file *file, int fd, off_t length)
{
    struct tde_buffers *buffers = tde_buffers_get();
    off_t size = file_size(fd);
    off_t start;
    ssize_t stored;
    size_t wanted;

    if (buffers == NULL || size < 0)
        return -1;
    start = unit_start(size < length ? size : length);
    if (length == size || start == length || (length > size && start == size))
        return 0; /* No unit is cut and none that is short gets longer. */
    stored = load_unit(file, fd, start, buffers);
    if (stored < 0)
        return -1;
    wanted = smaller((size_t)(length - start), TDE_BLOCK_SIZE);
    if (wanted > (size_t)stored)
        memset(buffers->plain + stored, 0, wanted - (size_t)stored);
    /* Only the last partial AES block and what is appended have another form now. */
    return store_unit(file, fd, start, buffers, (size_t)stored, wanted,
                      smaller(wanted, (size_t)stored), wanted);
}

/* The unit is in buffers->plain: store it under its new identity, or as it is. */
static int recode_unit(const struct tde_file *to, int fd, off_t start,
                       struct tde_buffers *buffers, size_t length)
{
    const uint8_t *stored = buffers->plain;

    if (to != NULL) {
        if (tde_unit_encode(to, unit_number(start), buffers->plain, buffers->bounce, length) != 0)
            return -1;
        stored = buffers->bounce;
    }
    return write_fully(fd, stored, length, start) == length ? 0 : -1;
}

int tde_block_recode(const struct tde_file *from, const struct tde_file *to, int fd)
{
    struct tde_buffers *buffers = tde_buffers_get();
    bool changed = false;

    if (buffers == NULL)
        return -1;
    for (off_t start = 0;; start += (off_t)TDE_BLOCK_SIZE) {
        ssize_t length = load_unit(from, fd, start, buffers);

        if (length < 0)
            return -1;
        if (length == 0)
            break;
        /* Zeros are zeros under every identity: a new segment is only read. */
        if (tde_is_zero(buffers->stored, (size_t)length))
            continue;
        if (recode_unit(to, fd, start, buffers, (size_t)length) != 0)
            return -1;
        changed = true;
    }
    return changed ? fsync(fd) : 0;
}
