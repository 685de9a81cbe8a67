/*
 * walfiles/gzip.c - zlib's calls that write a gzip file, for compressed WAL.
 *
 * Files that are no segments of WAL pass through.  The declarations are zlib's; including
 * its header would make it necessary for the build.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "interpose/libc/symbols.h"
#include "interpose/walfiles/compress.h"

#define Z_OK 0
#define Z_SYNC_FLUSH 2
#define Z_FINISH 4
#define Z_ERRNO (-1)
#define Z_STREAM_ERROR (-2)

void *gzdopen(int fd, const char *mode);
int gzwrite(void *file, const void *from, unsigned int length);
int gzflush(void *file, int flush);
int gzclose(void *file);

static struct {
    void *(*gzdopen)(int, const char *);
    int (*gzwrite)(void *, const void *, unsigned int);
    int (*gzflush)(void *, int);
    int (*gzclose)(void *);
    long (*gztell)(void *);
} zlib;

/* Binding twice at the same time writes the same values; see libc/symbols.c for memcpy. */
#define BIND(name)                                                                         \
    do {                                                                                   \
        void *symbol = tde_walfiles_compress_next(#name, "libz.so.1");                     \
        memcpy(&zlib.name, &symbol, sizeof symbol);                                        \
    } while (0)

static void bind_zlib(void)
{
    BIND(gzdopen);
    BIND(gzwrite);
    BIND(gzflush);
    BIND(gztell);
    BIND(gzclose);
}

/* How many bytes the stream has given to zlib; what zlib says, unless others give it some. */
static long given;

static bool is_ours_alone(struct tde_compressed *segment)
{
    if (!segment->broken && zlib.gztell(segment->handle) != given) {
        segment->broken = true;
        tde_walfiles_compress_refuse(segment->fd);
    }
    if (segment->broken)
        errno = EPERM;
    return !segment->broken;
}

TDE_EXPORT void *gzdopen(int fd, const char *mode)
{
    struct tde_compressed *segment = tde_walfiles_compressed_waiting(TDE_COMPRESSOR_GZIP);
    void *file;

    bind_zlib();
    if (zlib.gzdopen == NULL) {
        errno = ENOSYS;
        return NULL;
    }
    file = zlib.gzdopen(fd, mode);
    if (file != NULL && segment != NULL && segment->fd == fd && zlib.gztell != NULL) {
        segment->handle = file;
        given = 0;
    }
    return file;
}

/* LENGTH encoded bytes, in segment->encoded, go to zlib. */
static bool give(struct tde_compressed *segment, ssize_t length)
{
    if (length <= 0)
        return length == 0;
    segment->inside = true;
    if (zlib.gzwrite(segment->handle, segment->encoded, (unsigned int)length) != length)
        segment->broken = true;
    segment->inside = false;
    given += length;
    return !segment->broken;
}

static int flush_zlib(struct tde_compressed *segment, int flush)
{
    int result;

    segment->inside = true;
    result = zlib.gzflush(segment->handle, flush);
    segment->inside = false;
    segment->broken = segment->broken || result != Z_OK;
    return result;
}

static bool encode(struct tde_compressed *segment, const uint8_t *from, size_t length)
{
    while (length > 0) {
        size_t here = length < TDE_COMPRESS_CHUNK ? length : TDE_COMPRESS_CHUNK;

        if (!give(segment, tde_walfiles_compress_encode(segment, from, here)))
            return false;
        from += here;
        length -= here;
    }
    return true;
}

TDE_EXPORT int gzwrite(void *file, const void *from, unsigned int length)
{
    struct tde_compressed *segment = tde_walfiles_compressed_find(file);
    const uint8_t *bytes = from;
    size_t first;

    if (zlib.gzwrite == NULL)
        bind_zlib();
    if (segment == NULL)
        return zlib.gzwrite == NULL ? 0 : zlib.gzwrite(file, from, length);
    if (!is_ours_alone(segment))
        return 0;
    first = tde_walfiles_compress_replaces(segment, length);
    if (first > 0) {
        if (!encode(segment, bytes, first) || flush_zlib(segment, Z_SYNC_FLUSH) != Z_OK)
            return 0;
        segment->has_rest = false;
    }
    return encode(segment, bytes + first, length - first) ? (int)length : 0;
}

TDE_EXPORT int gzflush(void *file, int flush)
{
    struct tde_compressed *segment = tde_walfiles_compressed_find(file);
    int result;

    if (zlib.gzflush == NULL)
        bind_zlib();
    if (segment == NULL)
        return zlib.gzflush == NULL ? Z_STREAM_ERROR : zlib.gzflush(file, flush);
    if (flush == Z_FINISH || !is_ours_alone(segment))
        return Z_STREAM_ERROR;
    result = flush_zlib(segment, flush);
    if (result == Z_OK && flush >= Z_SYNC_FLUSH && tde_walfiles_compress_write_rest(segment) != 0)
        result = Z_ERRNO;
    return result;
}

/* The file loses its descriptor with the stream; a copy of it serves to cut the file. */
TDE_EXPORT int gzclose(void *file)
{
    struct tde_compressed *segment = tde_walfiles_compressed_find(file);
    bool complete;
    int result;
    int copy;

    if (zlib.gzclose == NULL)
        bind_zlib();
    if (segment == NULL)
        return zlib.gzclose == NULL ? Z_STREAM_ERROR : zlib.gzclose(file);
    complete = is_ours_alone(segment) && give(segment, tde_walfiles_compress_encode_rest(segment));
    copy = tde_libc()->fcntl(segment->fd, F_DUPFD_CLOEXEC, 0);
    segment->inside = !segment->broken; /* What is left in a broken one must not be written. */
    result = zlib.gzclose(file);
    segment->inside = false;
    segment->handle = NULL;
    segment->fd = -1;
    if (result == Z_OK && (!complete || copy < 0 || tde_walfiles_compress_cut(copy) != 0))
        result = Z_ERRNO;
    if (copy >= 0)
        tde_libc()->close(copy);
    return result;
}
