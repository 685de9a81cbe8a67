/*
 * blocks/stored.c - read, decode, encode and write one data unit.
 */
#include "interpose/blocks/stored.h"

#include <errno.h>

#include "crypto/cipher.h"
#include "format/block.h"
#include "interpose/blocks/unit.h"
#include "interpose/libc/symbols.h"
#include "interpose/libc/transfer.h"

ssize_t tde_blocks_load_unit(const struct tde_file *file, int fd, off_t start,
                             struct tde_buffers *buffers)
{
    ssize_t length = tde_libc_read_fully(fd, buffers->stored, TDE_BLOCK_SIZE, file->base + start);

    if (length > 0 && tde_blocks_decode_unit(file, tde_blocks_unit_number(start), buffers->stored,
                                             buffers->plain, (size_t)length) != 0)
        return -1;
    return length;
}

/*
 * A write stopped after WRITTEN bytes.  On a plain file the bytes outside of the caller's
 * range would be as before; here they may be in AES blocks that are half new, or in a unit
 * of zeros that is not all zeros any more.  So the old bytes go back, as far as the disk
 * lets them, and errno stays the error of the write.
 */
static void put_back(int fd, off_t start, const struct tde_buffers *buffers, size_t old_length,
                     size_t from, size_t written)
{
    off_t end = start + (off_t)(from + written);
    int saved = errno;

    if (from < old_length)
        tde_libc_write_fully(fd, buffers->stored + from,
                             tde_blocks_smaller(written, old_length - from),
                             start + (off_t)from);
    /* Not if somebody else has made the file longer in the meantime. */
    if (from + written > old_length && tde_libc_file_size(fd) == end &&
        tde_libc()->ftruncate(fd, start + (off_t)old_length) != 0) {
        /* The file keeps bytes that nobody was told of, as after a short write. */
    }
    errno = saved;
}

/*
 * A sector that the power cut left unwritten reads as zeros only as long as it is zeros.  Bytes
 * written into it bring the whole sector: FROM or TO moves to its edge.
 */
static void take_whole_sectors(const uint8_t *stored, size_t old_length, size_t *from, size_t *to)
{
    unsigned unwritten = tde_format_unwritten_sectors(stored, old_length);
    size_t first = *from / TDE_SECTOR_SIZE, last = *to / TDE_SECTOR_SIZE;

    if ((unwritten >> first & 1) != 0)
        *from = first * TDE_SECTOR_SIZE;
    if (*to % TDE_SECTOR_SIZE != 0 && (unwritten >> last & 1) != 0)
        *to = (last + 1) * TDE_SECTOR_SIZE;
}

int tde_blocks_store_unit(const struct tde_file *file, int fd, off_t start,
                          struct tde_buffers *buffers, size_t old_length, size_t new_length,
                          size_t from, size_t to)
{
    bool was_zero = tde_crypto_is_zero(buffers->stored, old_length);
    uint8_t *encoded = buffers->bounce;
    size_t written;

    if (tde_blocks_encode_unit(file, tde_blocks_unit_number(start), buffers->plain, encoded,
                               new_length) != 0)
        return -1;
    if (from > old_length)
        from = old_length; /* The gap behind the old end is part of the unit now. */
    from -= from % TDE_CIPHER_BLOCK;
    to = tde_blocks_smaller(to + (TDE_CIPHER_BLOCK - to % TDE_CIPHER_BLOCK) % TDE_CIPHER_BLOCK,
                            new_length);
    take_whole_sectors(buffers->stored, old_length, &from, &to);
    to = tde_blocks_smaller(to, new_length);
    if (was_zero != tde_crypto_is_zero(encoded, new_length)) {
        from = 0; /* The zero rule changes the stored form of every byte. */
        to = new_length;
    }
    written = tde_libc_write_fully(fd, encoded + from, to - from,
                                   file->base + start + (off_t)from);
    if (written == to - from)
        return 0;
    put_back(fd, file->base + start, buffers, old_length, from, written);
    return -1;
}
