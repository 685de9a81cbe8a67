/*
 * walfiles/compress.c - the compressed segment of WAL that is being written.
 */
#include "interpose/walfiles/compress.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

#include "crypto/cipher.h"
#include "interpose/keys/ring.h"
#include "interpose/libc/report.h"
#include "interpose/libc/symbols.h"
#include "interpose/libc/transfer.h"

/* A disk replaces a sector wholly or not at all. */
#define SECTOR 512

/* An AES block in a block of its own, as it is first written and as it is replaced. */
#define REST_ROOM 32

static struct tde_compressed current = {.fd = -1};

enum tde_compressor tde_walfiles_compress_parse(const char *path, struct tde_identity *id)
{
    static const struct {
        const char *suffix;
        enum tde_compressor compressor;
    } suffixes[] = {
        {".gz", TDE_COMPRESSOR_GZIP},
        {".gz.partial", TDE_COMPRESSOR_GZIP},
        {".lz4", TDE_COMPRESSOR_LZ4},
        {".lz4.partial", TDE_COMPRESSOR_LZ4},
    };
    const char *slash = strrchr(path, '/');
    const char *name = slash == NULL ? path : slash + 1;

    if (tde_format_parse_segment_name(name, id) != 0)
        return TDE_COMPRESSOR_NONE;
    for (size_t i = 0; i < sizeof suffixes / sizeof suffixes[0]; i++)
        if (strcmp(name + 24, suffixes[i].suffix) == 0)
            return suffixes[i].compressor;
    return TDE_COMPRESSOR_NONE;
}

struct tde_compressed *tde_walfiles_compressed_find(const void *handle)
{
    return handle != NULL && handle == current.handle && !current.inside ? &current : NULL;
}

struct tde_compressed *tde_walfiles_compressed_waiting(enum tde_compressor compressor)
{
    return current.fd >= 0 && current.handle == NULL && current.compressor == compressor
               ? &current
               : NULL;
}

void tde_walfiles_compress_start(int fd, const char *path, const struct tde_file *file)
{
    struct tde_identity id;

    memset(&current, 0, sizeof current);
    current.fd = fd;
    current.compressor = tde_walfiles_compress_parse(path, &id);
    current.key = file->key;
    tde_format_stream_start(&current.stream, &file->id);
}

static ssize_t encoded(struct tde_compressed *segment, ssize_t length)
{
    if (length < 0) {
        segment->broken = true;
        errno = EIO;
    }
    return length;
}

ssize_t tde_walfiles_compress_encode(struct tde_compressed *segment, const uint8_t *from,
                                     size_t length)
{
    struct tde_cipher *cipher = tde_keys_cipher(segment->key);

    return encoded(segment, cipher == NULL
                                ? -1
                                : tde_format_stream_update(&segment->stream, cipher, from, length,
                                                           segment->encoded));
}

ssize_t tde_walfiles_compress_encode_rest(struct tde_compressed *segment)
{
    struct tde_cipher *cipher = tde_keys_cipher(segment->key);

    return encoded(segment, cipher == NULL
                                ? -1
                                : tde_format_stream_rest(&segment->stream, cipher,
                                                         segment->encoded));
}

/* A block without content, which both formats may have anywhere between two others. */
static int write_empty_block(const struct tde_compressed *segment)
{
    static const uint8_t gzip_block[5] = {0, 0, 0, 0xff, 0xff};
    static const uint8_t lz4_block[5] = {1, 0, 0, 0, 0};

    return tde_libc()->write(segment->fd,
                             segment->compressor == TDE_COMPRESSOR_GZIP ? gzip_block : lz4_block,
                             sizeof gzip_block) == sizeof gzip_block
               ? 0
               : -1;
}

/* The header of a block that is stored as it is; its length. */
static size_t stored_block_header(const struct tde_compressed *segment, size_t length,
                                  uint8_t header[5])
{
    uint8_t low = (uint8_t)length;
    uint8_t high = (uint8_t)(length >> 8);

    if (segment->compressor == TDE_COMPRESSOR_LZ4) {
        memcpy(header, (uint8_t[]){low, high, 0, 0x80}, 4);
        return 4;
    }
    memcpy(header, (uint8_t[]){0, low, high, (uint8_t)~low, (uint8_t)~high}, 5);
    return 5;
}

/*
 * The rest is replaced as soon as its AES block is complete.  It was reported as durable, so
 * a machine that stops meanwhile must leave the old or the new one: both are in one sector.
 */
int tde_walfiles_compress_write_rest(struct tde_compressed *segment)
{
    ssize_t length = tde_walfiles_compress_encode_rest(segment);
    off_t position = tde_libc()->lseek(segment->fd, 0, SEEK_CUR);
    uint8_t block[5 + TDE_BLOCK_SIZE];
    size_t header;

    if (length < 0 || position < 0)
        return -1;
    if (length == 0)
        return 0;
    while (SECTOR - position % SECTOR < REST_ROOM) {
        if (write_empty_block(segment) != 0)
            return -1;
        position += 5;
    }
    header = stored_block_header(segment, (size_t)length, block);
    memcpy(block + header, segment->encoded, (size_t)length);
    if (tde_libc_write_fully(segment->fd, block, header + (size_t)length, position) <
        header + (size_t)length)
        return -1;
    segment->has_rest = true;
    return 0;
}

size_t tde_walfiles_compress_replaces(const struct tde_compressed *segment, size_t length)
{
    size_t missing = tde_format_stream_missing(&segment->stream);

    return segment->has_rest && missing <= length ? missing : 0;
}

int tde_walfiles_compress_cut(int fd)
{
    off_t end = tde_libc()->lseek(fd, 0, SEEK_CUR);

    return end < 0 ? -1 : tde_libc()->ftruncate(fd, end);
}

static int finish_write(struct tde_compressed *segment)
{
    bool rest = segment->rest_is_due;
    bool end = segment->end_is_due;

    segment->output = NULL;
    segment->rest_is_due = false;
    segment->end_is_due = false;
    if (rest && tde_walfiles_compress_write_rest(segment) != 0)
        return -1;
    return end ? tde_walfiles_compress_cut(segment->fd) : 0;
}

ssize_t tde_walfiles_compress_write(int fd, const void *from, size_t length)
{
    ssize_t written;

    if (fd == current.fd && current.inside)
        return tde_libc()->write(fd, from, length);
    if (fd != current.fd || current.broken || current.output != from ||
        current.output_length != length || from == NULL)
        return tde_walfiles_compress_refuse(fd);
    written = tde_libc()->write(fd, from, length);
    if (written == (ssize_t)length && finish_write(&current) != 0)
        return -1;
    return written;
}

int tde_walfiles_compress_refuse(int fd)
{
    char path[PATH_MAX];

    tde_libc_descriptor_path(fd, path);
    tde_libc_report("refused to write %s: this WAL did not go through a compressor that tde knows, "
                    "and would not be encrypted; HINT: use a program that is linked with the "
                    "shared libz and liblz4, or no compression",
                    path);
    errno = EPERM;
    return -1;
}

/*
 * The interposer stands in front of all libraries, and is not linked with these.  A library
 * that a plugin brought along is not among those behind it, so it is looked for by name.
 */
void *tde_walfiles_compress_next(const char *name, const char *library)
{
    void *symbol = dlsym(RTLD_NEXT, name);
    void *handle;

    if (symbol != NULL)
        return symbol;
    handle = dlopen(library, RTLD_LAZY | RTLD_NOLOAD);
    if (handle == NULL)
        return NULL;
    symbol = dlsym(handle, name);
    dlclose(handle); /* Its loader keeps it. */
    return symbol;
}
