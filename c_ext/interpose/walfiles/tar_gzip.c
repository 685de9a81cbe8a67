/*
 * walfiles/tar_gzip.c - zlib's deflate, as pg_basebackup uses it for pg_wal.tar.gz.
 *
 * Other streams pass through.  The declarations are zlib's; including its header would make it
 * necessary for the build.
 */
#include "interpose/walfiles/tar_gzip.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>

#include "crypto/cipher.h"
#include "format/stream.h"
#include "format/tar.h"
#include "interpose/keys/ring.h"
#include "interpose/libc/symbols.h"
#include "interpose/walfiles/compress.h"
#include "interpose/walfiles/tar.h"

#define Z_NO_FLUSH 0
#define Z_FINISH 4
#define Z_OK 0
#define Z_STREAM_ERROR (-2)

/* How z_stream begins; the size that the program gives at the start tells that it is this one. */
struct zstream {
    const uint8_t *next_in;
    unsigned int avail_in;
    unsigned long total_in;
    uint8_t *next_out;
    unsigned int avail_out;
    unsigned long total_out;
};

int deflate(struct zstream *stream, int flush);
int deflateInit2_(struct zstream *stream, int level, int method, int window_bits, int mem_level,
                  int strategy, const char *version, int stream_size);

static int (*next_deflate)(struct zstream *, int);
static int (*next_init)(struct zstream *, int, int, int, int, int, const char *, int);

/* The file that is being written.  There is one: its writer is one thread of pg_basebackup. */
static struct {
    int fd;
    tde_key_index key;
    struct zstream *handle; /* NULL until the program has made it */
    bool broken;            /* something was refused, so nothing more may come */
    uint64_t size;          /* of the tar file, as far as zlib was given it */
    struct tde_tar tar;
    struct tde_stream stream; /* of the open member, if it is a segment */
    size_t length;            /* of what zlib is to take from ENCODED */
    size_t taken;             /* and has already */
    uint8_t encoded[TDE_COMPRESS_CHUNK + TDE_BLOCK_SIZE];
} current = {.fd = -1};

void tde_walfiles_tar_gzip_start(int fd, const struct tde_file *file)
{
    memset(&current, 0, sizeof current);
    current.fd = fd;
    current.key = file->key;
}

ssize_t tde_walfiles_tar_gzip_write(int fd, const void *from, size_t length)
{
    if (fd != current.fd || current.broken || current.handle == NULL ||
        (const uint8_t *)from + length != current.handle->next_out)
        return tde_walfiles_compress_refuse(fd);
    return tde_libc()->write(fd, from, length);
}

static bool refuse(const char *problem)
{
    current.broken = true;
    tde_walfiles_tar_refuse(current.fd, problem);
    return false;
}

/* A header by itself, or zeros at the end of the archive. */
static bool take_block(const uint8_t *block)
{
    bool completes = current.tar.open;
    const char *problem = completes ? tde_format_tar_complete(&current.tar, current.size, block)
                                    : tde_format_tar_begin(&current.tar, current.size, block);

    if (problem != NULL)
        return refuse(problem);
    if (!completes)
        current.size += TDE_TAR_BLOCK; /* The second header takes the place of the first. */
    if (!completes && current.tar.open && current.tar.member.kind == TDE_TAR_SEGMENT)
        tde_format_stream_start(&current.stream, &current.tar.member.id);
    memcpy(current.encoded, block, TDE_TAR_BLOCK);
    current.length = TDE_TAR_BLOCK;
    return true;
}

/* LENGTH bytes of the open segment; what comes out may be less, or more that was held back. */
static bool take_wal(const uint8_t *from, size_t length)
{
    struct tde_cipher *cipher = tde_keys_cipher(current.key);
    ssize_t encoded = cipher == NULL ? -1
                                     : tde_format_stream_update(&current.stream, cipher, from,
                                                                length, current.encoded);

    if (encoded < 0)
        return refuse("it could not be encrypted");
    current.length = (size_t)encoded;
    current.size += length;
    return true;
}

/* Encode what the program gives next; zlib has taken all that was encoded before. */
static bool take_input(struct zstream *stream, bool header)
{
    size_t length = stream->avail_in < TDE_COMPRESS_CHUNK ? stream->avail_in : TDE_COMPRESS_CHUNK;
    const uint8_t *from = stream->next_in;
    enum tde_tar_place place;
    bool taken;

    current.taken = 0;
    current.length = 0;
    if (header) {
        length = TDE_TAR_BLOCK;
        taken = stream->avail_in == TDE_TAR_BLOCK ? take_block(from)
                                                  : refuse("a header does not come by itself");
    } else {
        length = tde_format_tar_locate(&current.tar, current.size, current.size, length, &place);
        switch (place) {
        case TDE_TAR_AT_HEADER:
            taken = take_block(from);
            break;
        case TDE_TAR_IN_SEGMENT:
            taken = take_wal(from, length);
            break;
        case TDE_TAR_IN_PLAIN:
            memcpy(current.encoded, from, length);
            current.length = length;
            current.size += length;
            taken = true;
            break;
        case TDE_TAR_NOWHERE:
        default:
            taken = refuse("it is not written as pg_basebackup writes it");
            break;
        }
    }
    if (taken) {
        stream->next_in += length;
        stream->avail_in -= (unsigned int)length;
    }
    return taken;
}

/* zlib works on what is encoded, as if the program had given it that. */
static int compress(struct zstream *stream, int flush)
{
    const uint8_t *next_in = stream->next_in;
    unsigned int avail_in = stream->avail_in;
    int result;

    stream->next_in = current.encoded + current.taken;
    stream->avail_in = (unsigned int)(current.length - current.taken);
    result = next_deflate(stream, flush);
    current.taken = current.length - stream->avail_in;
    stream->next_in = next_in;
    stream->avail_in = avail_in;
    return result;
}

/* A member ends with whole blocks of WAL, so nothing of it is held back any more. */
static bool is_complete(void)
{
    struct tde_cipher *cipher = tde_keys_cipher(current.key);
    uint8_t rest[TDE_BLOCK_SIZE];

    if (!current.tar.open || current.tar.member.kind != TDE_TAR_SEGMENT)
        return true;
    if (cipher == NULL || tde_format_stream_rest(&current.stream, cipher, rest) != 0)
        return refuse("a WAL segment in it is not a whole number of blocks");
    return true;
}

static int deflate_tar(struct zstream *stream, int flush)
{
    bool nothing_left = current.taken == current.length;

    if (current.broken)
        return Z_STREAM_ERROR;
    if (flush != Z_NO_FLUSH && flush != Z_FINISH) {
        /* zlib itself, before it changes the level; it has been given all by then. */
        if (stream->avail_in == 0 && nothing_left)
            return next_deflate(stream, flush);
        refuse("it is not written as pg_basebackup writes it");
        return Z_STREAM_ERROR;
    }
    if (nothing_left && stream->avail_in > 0 && !take_input(stream, flush == Z_FINISH))
        return Z_STREAM_ERROR;
    if (flush == Z_FINISH && stream->avail_in == 0 && !is_complete())
        return Z_STREAM_ERROR;
    /* The program comes again as long as it has more, or zlib does. */
    return compress(stream, stream->avail_in == 0 ? flush : Z_NO_FLUSH);
}

static bool bind_zlib(void)
{
    void *symbol = tde_walfiles_compress_next("deflate", "libz.so.1");

    memcpy(&next_deflate, &symbol, sizeof symbol);
    symbol = tde_walfiles_compress_next("deflateInit2_", "libz.so.1");
    memcpy(&next_init, &symbol, sizeof symbol);
    return next_deflate != NULL && next_init != NULL;
}

TDE_EXPORT int deflateInit2_(struct zstream *stream, int level, int method, int window_bits,
                             int mem_level, int strategy, const char *version, int stream_size)
{
    int result;

    if (next_init == NULL && !bind_zlib())
        return Z_STREAM_ERROR;
    result = next_init(stream, level, method, window_bits, mem_level, strategy, version,
                       stream_size);
    if (result == Z_OK && current.fd >= 0 && current.handle == NULL)
        current.handle = stream;
    return result;
}

TDE_EXPORT int deflate(struct zstream *stream, int flush)
{
    if (next_deflate == NULL && !bind_zlib())
        return Z_STREAM_ERROR;
    if (stream == NULL || stream != current.handle)
        return next_deflate(stream, flush);
    return deflate_tar(stream, flush);
}
