/*
 * format/stream.c - the stored form of a stream of WAL.
 */
#include "format/stream.h"

#include <string.h>

void tde_format_stream_start(struct tde_stream *stream, const struct tde_identity *id)
{
    memset(stream, 0, sizeof *stream);
    stream->id = *id;
}

/* Encode the bytes of the present block from the last one that came out up to END. */
static ssize_t emit(struct tde_stream *stream, struct tde_cipher *cipher, size_t end,
                    uint8_t *dst)
{
    size_t length = end - stream->emitted;
    uint8_t tweak[TDE_TWEAK_SIZE];

    if (!stream->has_data) {
        memset(dst, 0, length);
        return (ssize_t)length;
    }
    if (tde_format_tweak(&stream->id, stream->block, tweak) != 0)
        return -1;
    /* XTS reaches an AES block only through those before it. */
    if (tde_crypto_encrypt(cipher, tweak, stream->plain, stream->stored, end) != 0)
        return -1;
    memcpy(dst, stream->stored + stream->emitted, length);
    return (ssize_t)length;
}

/* Take bytes that do not go beyond the present block. */
static ssize_t update_block(struct tde_stream *stream, struct tde_cipher *cipher,
                            const uint8_t *src, size_t length, uint8_t *dst)
{
    ssize_t out;
    size_t end;

    memcpy(stream->plain + stream->received, src, length);
    stream->received += length;
    stream->has_data = stream->has_data || !tde_crypto_is_zero(src, length);
    if (stream->received < TDE_BLOCK_SIZE && !stream->has_data)
        return 0;
    end = stream->received - stream->received % TDE_CIPHER_BLOCK;
    out = end == stream->emitted ? 0 : emit(stream, cipher, end, dst);
    if (out < 0)
        return -1;
    stream->emitted = end;
    if (end == TDE_BLOCK_SIZE) {
        stream->block++;
        stream->received = 0;
        stream->emitted = 0;
        stream->has_data = false;
    }
    return out;
}

ssize_t tde_format_stream_update(struct tde_stream *stream, struct tde_cipher *cipher,
                                 const uint8_t *src, size_t length, uint8_t *dst)
{
    size_t total = 0;

    while (length > 0) {
        size_t room = TDE_BLOCK_SIZE - stream->received;
        size_t here = length < room ? length : room;
        ssize_t out = update_block(stream, cipher, src, here, dst + total);

        if (out < 0)
            return -1;
        total += (size_t)out;
        src += here;
        length -= here;
    }
    return (ssize_t)total;
}

size_t tde_format_stream_missing(const struct tde_stream *stream)
{
    return (TDE_CIPHER_BLOCK - stream->received % TDE_CIPHER_BLOCK) % TDE_CIPHER_BLOCK;
}

ssize_t tde_format_stream_rest(struct tde_stream *stream, struct tde_cipher *cipher,
                               uint8_t dst[TDE_BLOCK_SIZE])
{
    size_t end = stream->received + tde_format_stream_missing(stream);

    if (end == stream->emitted)
        return 0;
    memset(stream->plain + stream->received, 0, end - stream->received);
    return emit(stream, cipher, end, dst);
}
