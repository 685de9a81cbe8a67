/*
 * format/stream.h - encrypt a WAL segment that arrives as a sequential stream of bytes.
 *
 * What comes out, joined, is what the segment's file holds at rest (docs/format.md, sections
 * 3 and 4), whatever the pieces are that it came in.  A stream cannot go back, so it holds
 * back what later bytes still decide: the AES block that is not complete, and the zeros at the
 * start of a block, which stay zeros only if the whole block is.  This module is pure: no I/O,
 * no allocation.
 */
#ifndef TDE_FORMAT_STREAM_H
#define TDE_FORMAT_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "crypto/cipher.h"
#include "format/identity.h"

struct tde_stream {
    struct tde_identity id;
    uint64_t block;   /* the block that is being filled */
    size_t received;  /* bytes of it in PLAIN */
    size_t emitted;   /* bytes of it that came out, a multiple of TDE_CIPHER_BLOCK */
    bool has_data;    /* one of its bytes is not zero */
    uint8_t plain[TDE_BLOCK_SIZE];
    uint8_t stored[TDE_BLOCK_SIZE];
};

void tde_format_stream_start(struct tde_stream *stream, const struct tde_identity *id);

/*
 * Take LENGTH bytes at SRC and write what can be told of their stored form to DST, which has room
 * for LENGTH + TDE_BLOCK_SIZE bytes and does not overlap SRC.  Returns how many bytes came out,
 * or -1 when the cipher refuses; the stream must not be used any more then.
 */
ssize_t tde_format_stream_update(struct tde_stream *stream, struct tde_cipher *cipher,
                                 const uint8_t *src, size_t length, uint8_t *dst);

/*
 * The stored form of what is held back, completed with zeros to whole AES blocks: what the
 * file at rest would hold behind what came out.  The stream stays as it is.  Returns the
 * length, 0 if nothing is held back, or -1.
 */
ssize_t tde_format_stream_rest(struct tde_stream *stream, struct tde_cipher *cipher,
                               uint8_t dst[TDE_BLOCK_SIZE]);

/* How many more bytes complete the AES block that the stream is in; 0 between two. */
size_t tde_format_stream_missing(const struct tde_stream *stream);

#endif
