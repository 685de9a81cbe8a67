/*
 * blocks/shape.c - changes of an encrypted file's length and of its identity.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "crypto/cipher.h"
#include "interpose/blocks/range.h"
#include "interpose/blocks/stored.h"
#include "interpose/blocks/unit.h"
#include "interpose/files/reach.h"
#include "interpose/libc/symbols.h"
#include "interpose/libc/transfer.h"

/* The unit at START, now cut or longer, is encoded again up to LENGTH, the file's new end. */
static int reshape_unit(const struct tde_file *file, int fd, off_t start, off_t length,
                        struct tde_buffers *buffers)
{
    ssize_t stored = tde_blocks_load_unit(file, fd, start, buffers);
    size_t wanted = tde_blocks_smaller((size_t)(length - start), TDE_BLOCK_SIZE);

    if (stored < 0)
        return -1;
    if (wanted > (size_t)stored)
        memset(buffers->plain + stored, 0, wanted - (size_t)stored);
    /* Only the last partial AES block and what is appended have another form now. */
    return tde_blocks_store_unit(file, fd, start, buffers, (size_t)stored, wanted,
                                 tde_blocks_smaller(wanted, (size_t)stored), wanted);
}

int tde_blocks_resize(const struct tde_file *file, int fd, off_t length)
{
    struct tde_buffers *buffers = tde_blocks_buffers();
    off_t size = tde_libc_file_size(fd);
    off_t last = tde_blocks_unit_start(length);

    if (buffers == NULL || size < 0)
        return -1;
    /* A short last unit gets longer. */
    if (length > size && tde_blocks_unit_start(size) != size &&
        reshape_unit(file, fd, tde_blocks_unit_start(size), length, buffers) != 0)
        return -1;
    /* A unit is cut. */
    if (length < size && last != length)
        return reshape_unit(file, fd, last, length, buffers);
    /* The new last unit would be zeros, and is too short for zeros to be its stored form. */
    if (length > size && last >= size && last != length &&
        !tde_blocks_keeps_zeros(file, (size_t)(length - last)))
        return reshape_unit(file, fd, last, length, buffers);
    return 0;
}

/*
 * The length stays SIZE.  The unit that was prepared for LENGTH is in this thread's buffers
 * as it was: the one that would have been cut, or the short last one that would have grown.
 */
static void undo_resize(int fd, off_t size, off_t length)
{
    struct tde_buffers *buffers = tde_blocks_buffers();
    off_t changed = tde_blocks_unit_start(length < size ? length : size);
    int saved = errno;

    if (tde_libc_file_size(fd) > size && tde_libc()->ftruncate(fd, size) != 0) {
        /* The file keeps zeros behind its end. */
    }
    if (buffers != NULL && length != size && changed != length && changed != size)
        tde_libc_write_fully(fd, buffers->stored,
                             tde_blocks_smaller((size_t)(size - changed), TDE_BLOCK_SIZE),
                             changed);
    errno = saved;
}

int tde_blocks_truncate(const struct tde_file *file, int fd, off_t length)
{
    off_t size = tde_libc_file_size(fd);

    if (size < 0 || tde_blocks_resize(file, fd, length) != 0)
        return -1;
    if (tde_libc()->ftruncate(fd, length) != 0) {
        undo_resize(fd, size, length);
        tde_files_reach_count_cut(); /* It may have been longer for a moment. */
        return -1;
    }
    if (length < size)
        tde_files_reach_count_cut();
    return 0;
}

/* The unit is in buffers->plain: store it under its new identity, or as it is. */
static int recode_unit(const struct tde_file *to, int fd, off_t start,
                       struct tde_buffers *buffers, size_t length)
{
    const uint8_t *stored = buffers->plain;

    if (to != NULL) {
        if (tde_blocks_encode_unit(to, tde_blocks_unit_number(start), buffers->plain,
                                   buffers->bounce, length) != 0)
            return -1;
        stored = buffers->bounce;
    }
    return tde_libc_write_fully(fd, stored, length, start) == length ? 0 : -1;
}

/* Encode again the units of one stretch of the file; *CHANGED tells whether any was written. */
static int recode_stretch(const struct tde_file *from, const struct tde_file *to, int fd,
                          off_t start, size_t length, bool *changed)
{
    struct tde_buffers *buffers = tde_blocks_buffers();

    for (size_t done = 0; done < length; done += TDE_BLOCK_SIZE) {
        off_t unit = start + (off_t)done;
        ssize_t stored = tde_blocks_load_unit(from, fd, unit, buffers);

        if (stored <= 0)
            return (int)stored;
        if (tde_blocks_keeps_zeros(from, (size_t)stored) &&
            tde_crypto_is_zero(buffers->stored, (size_t)stored))
            continue;
        if (recode_unit(to, fd, unit, buffers, (size_t)stored) != 0)
            return -1;
        *changed = true;
    }
    return 0;
}

int tde_blocks_recode(const struct tde_file *from, const struct tde_file *to, int fd)
{
    struct tde_buffers *buffers = tde_blocks_buffers();
    bool changed = false;

    if (buffers == NULL)
        return -1;
    for (off_t start = 0;; start += (off_t)TDE_BOUNCE_SIZE) {
        ssize_t length = tde_libc_read_fully(fd, buffers->bounce, TDE_BOUNCE_SIZE, start);

        if (length < 0)
            return -1;
        if (length == 0)
            break;
        /* A new segment is zeros, which are zeros under every identity: it is only read. */
        if ((size_t)length % TDE_BLOCK_SIZE == 0 &&
            tde_crypto_is_zero(buffers->bounce, (size_t)length))
            continue;
        if (recode_stretch(from, to, fd, start, (size_t)length, &changed) != 0)
            return -1;
    }
    return changed ? fsync(fd) : 0;
}
