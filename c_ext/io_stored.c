/*
 * io_stored.c - read, decode, encode and write one data unit.
 */
#include "io_stored.h"

#include "io_transfer.h"
#include "io_unit.h"
#include "tde_crypto.h"

ssize_t tde_unit_load(const struct tde_file *file, int fd, off_t start,
                      struct tde_buffers *buffers)
{
    ssize_t length = tde_read_fully(fd, buffers->stored, TDE_BLOCK_SIZE, start);

    if (length > 0 && tde_unit_decode(file, tde_unit_number(start), buffers->stored,
                                      buffers->plain, (size_t)length) != 0)
        return -1;
    return length;
}

int tde_unit_store(const struct tde_file *file, int fd, off_t start,
                   struct tde_buffers *buffers, size_t old_length, size_t new_length,
                   size_t from, size_t to)
{
    bool was_zero = tde_is_zero(buffers->stored, old_length);
    uint8_t *encoded = buffers->bounce;

    if (tde_unit_encode(file, tde_unit_number(start), buffers->plain, encoded, new_length) != 0)
        return -1;
    if (from > old_length)
        from = old_length; /* The gap behind the old end is part of the unit now. */
    from -= from % TDE_CIPHER_BLOCK;
    to = tde_smaller(to + (TDE_CIPHER_BLOCK - to % TDE_CIPHER_BLOCK) % TDE_CIPHER_BLOCK,
                 new_length);
    if (was_zero != tde_is_zero(encoded, new_length)) {
        from = 0; /* The zero rule changes the stored form of every byte. */
        to = new_length;
    }
    if (tde_write_fully(fd, encoded + from, to - from, start + (off_t)from) != to - from)
        return -1;
    return 0;
}
