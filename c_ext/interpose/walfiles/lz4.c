/*
 * walfiles/lz4.c - lz4's calls that make a frame, for compressed WAL.
 *
 * lz4 compresses to memory, which its caller then writes; walfiles/compress.c lets only that
 * through.  Frames of anything else pass.  The declarations are lz4's, see walfiles/gzip.c.
 */
#include <errno.h>
#include <string.h>

#include "interpose/libc/symbols.h"
#include "interpose/walfiles/compress.h"

/* What LZ4F_isError takes for LZ4F_ERROR_GENERIC. */
#define LZ4_ERROR ((size_t)-1)

/* In the frame's header: each block is followed by a checksum. */
#define BLOCK_CHECKSUM 0x10

typedef size_t (*compress_function)(void *, void *, size_t, const void *, size_t, const void *);
typedef size_t (*end_function)(void *, void *, size_t, const void *);

size_t LZ4F_compressBegin(void *context, void *to, size_t size, const void *preferences);
size_t LZ4F_compressUpdate(void *context, void *to, size_t size, const void *from,
                           size_t length, const void *options);
size_t LZ4F_uncompressedUpdate(void *context, void *to, size_t size, const void *from,
                               size_t length, const void *options);
size_t LZ4F_flush(void *context, void *to, size_t size, const void *options);
size_t LZ4F_compressEnd(void *context, void *to, size_t size, const void *options);

static struct {
    end_function LZ4F_compressBegin;
    compress_function LZ4F_compressUpdate;
    compress_function LZ4F_uncompressedUpdate;
    end_function LZ4F_flush;
    end_function LZ4F_compressEnd;
} lz4;

#define BIND(name)                                                                         \
    do {                                                                                   \
        if (lz4.name == NULL) {                                                            \
            void *symbol = tde_walfiles_compress_next(#name, "liblz4.so.1");               \
            memcpy(&lz4.name, &symbol, sizeof symbol);                                     \
        }                                                                                  \
    } while (0)

static bool is_error(size_t result)
{
    return result > (size_t)-1024; /* No buffer is that large, and no error code that small. */
}

/* What the caller has to write next. */
static size_t leave_output(struct tde_compressed *segment, const void *to, size_t length)
{
    if (is_error(length))
        segment->broken = true;
    segment->output = to;
    segment->output_length = length;
    return length;
}

TDE_EXPORT size_t LZ4F_compressBegin(void *context, void *to, size_t size,
                                     const void *preferences)
{
    struct tde_compressed *segment = tde_walfiles_compressed_waiting(TDE_COMPRESSOR_LZ4);
    size_t length;

    BIND(LZ4F_compressBegin);
    if (lz4.LZ4F_compressBegin == NULL)
        return LZ4_ERROR;
    length = lz4.LZ4F_compressBegin(context, to, size, preferences);
    /* With checksums of blocks, what is held back could not be written as a block of its own. */
    if (segment != NULL && !is_error(length) && length > 4 &&
        (((const uint8_t *)to)[4] & BLOCK_CHECKSUM) == 0) {
        segment->handle = context;
        leave_output(segment, to, length);
    }
    return length;
}

/* Where compressed bytes go, and how many there are. */
struct output {
    uint8_t *to;
    size_t size;
    size_t length;
};

static bool took(struct output *output, size_t result)
{
    if (is_error(result))
        return false;
    output->length += result;
    return true;
}

/* LENGTH encoded bytes, in segment->encoded, go to lz4. */
static bool give(struct tde_compressed *segment, struct output *output, ssize_t length)
{
    size_t result;

    if (length <= 0)
        return length == 0;
    segment->inside = true;
    result = lz4.LZ4F_compressUpdate(segment->handle, output->to + output->length,
                                     output->size - output->length, segment->encoded,
                                     (size_t)length, NULL);
    segment->inside = false;
    return took(output, result);
}

static bool flush_lz4(struct tde_compressed *segment, struct output *output)
{
    size_t result;

    segment->inside = true;
    result = lz4.LZ4F_flush(segment->handle, output->to + output->length,
                            output->size - output->length, NULL);
    segment->inside = false;
    return took(output, result);
}

static bool encode(struct tde_compressed *segment, struct output *output, const uint8_t *from,
                   size_t length)
{
    while (length > 0) {
        size_t here = length < TDE_COMPRESS_CHUNK ? length : TDE_COMPRESS_CHUNK;

        if (!give(segment, output, tde_walfiles_compress_encode(segment, from, here)))
            return false;
        from += here;
        length -= here;
    }
    return true;
}

TDE_EXPORT size_t LZ4F_compressUpdate(void *context, void *to, size_t size, const void *from,
                                      size_t length, const void *options)
{
    struct tde_compressed *segment = tde_walfiles_compressed_find(context);
    struct output output = {to, size, 0};
    size_t first;
    bool done = true;

    BIND(LZ4F_compressUpdate);
    BIND(LZ4F_flush);
    if (lz4.LZ4F_compressUpdate == NULL || lz4.LZ4F_flush == NULL)
        return LZ4_ERROR;
    if (segment == NULL)
        return lz4.LZ4F_compressUpdate(context, to, size, from, length, options);
    if (segment->broken)
        return LZ4_ERROR;
    first = tde_walfiles_compress_replaces(segment, length);
    if (first > 0) {
        done = encode(segment, &output, from, first) && flush_lz4(segment, &output);
        segment->has_rest = false;
    }
    done = done && encode(segment, &output, (const uint8_t *)from + first, length - first);
    return leave_output(segment, to, done ? output.length : LZ4_ERROR);
}

/* It would take plaintext into the frame of a segment; no program of PostgreSQL calls it. */
TDE_EXPORT size_t LZ4F_uncompressedUpdate(void *context, void *to, size_t size,
                                          const void *from, size_t length, const void *options)
{
    struct tde_compressed *segment = tde_walfiles_compressed_find(context);

    BIND(LZ4F_uncompressedUpdate);
    if (lz4.LZ4F_uncompressedUpdate == NULL)
        return LZ4_ERROR;
    if (segment == NULL)
        return lz4.LZ4F_uncompressedUpdate(context, to, size, from, length, options);
    segment->broken = true;
    tde_walfiles_compress_refuse(segment->fd);
    return LZ4_ERROR;
}

TDE_EXPORT size_t LZ4F_flush(void *context, void *to, size_t size, const void *options)
{
    struct tde_compressed *segment = tde_walfiles_compressed_find(context);
    struct output output = {to, size, 0};

    BIND(LZ4F_flush);
    if (lz4.LZ4F_flush == NULL)
        return LZ4_ERROR;
    if (segment == NULL)
        return lz4.LZ4F_flush(context, to, size, options);
    if (segment->broken || !flush_lz4(segment, &output))
        return leave_output(segment, to, LZ4_ERROR);
    segment->rest_is_due = true;
    return leave_output(segment, to, output.length);
}

/* What is held back may make a whole block of lz4, for which TO has no room beside the end. */
static bool write_rest(struct tde_compressed *segment, void *to, size_t size)
{
    struct output output = {to, size, 0};

    return give(segment, &output, tde_walfiles_compress_encode_rest(segment)) &&
           (output.length == 0 || tde_libc()->write(segment->fd, to, output.length) ==
                                      (ssize_t)output.length);
}

TDE_EXPORT size_t LZ4F_compressEnd(void *context, void *to, size_t size, const void *options)
{
    struct tde_compressed *segment = tde_walfiles_compressed_find(context);
    size_t length;

    BIND(LZ4F_compressEnd);
    if (lz4.LZ4F_compressEnd == NULL)
        return LZ4_ERROR;
    if (segment == NULL)
        return lz4.LZ4F_compressEnd(context, to, size, options);
    if (segment->broken || !write_rest(segment, to, size)) {
        segment->broken = true;
        return LZ4_ERROR;
    }
    segment->handle = NULL; /* lz4 calls its own LZ4F_flush through the wrapper. */
    length = lz4.LZ4F_compressEnd(context, to, size, options);
    segment->compressor = TDE_COMPRESSOR_NONE; /* Nor does it wait for another frame. */
    segment->end_is_due = true;
    return leave_output(segment, to, length);
}
