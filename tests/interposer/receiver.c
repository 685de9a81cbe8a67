/*
 * receiver.c - writes a compressed segment of WAL as PostgreSQL's walmethods.c does.
 *
 * receiver FILE DATA gzip|lz4 STEP…   The bytes come from DATA, from its start on.  Steps:
 *
 *   write:N            the next N bytes
 *   flush:COPY         make durable what is there; the file at that moment is copied to COPY
 *   sneak:N            write N bytes to the file itself, past the compressor
 *   other:N            give N bytes to the compressor by a call that PostgreSQL does not use
 *   close              finish the file; without it the process ends as if it were killed
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Those of zlib.h and lz4frame.h, which need not be installed. */
void *gzdopen(int fd, const char *mode);
int gzsetparams(void *file, int level, int strategy);
int gzwrite(void *file, const void *from, unsigned length);
int gzfwrite(const void *from, size_t size, size_t count, void *file);
int gzflush(void *file, int flush);
int gzclose(void *file);
size_t LZ4F_createCompressionContext(void **context, unsigned version);
size_t LZ4F_compressBound(size_t length, const void *preferences);
size_t LZ4F_compressBegin(void *context, void *to, size_t size, const void *preferences);
size_t LZ4F_compressUpdate(void *context, void *to, size_t size, const void *from, size_t length,
                           const void *options);
size_t LZ4F_uncompressedUpdate(void *context, void *to, size_t size, const void *from,
                               size_t length, const void *options);
size_t LZ4F_flush(void *context, void *to, size_t size, const void *options);
size_t LZ4F_compressEnd(void *context, void *to, size_t size, const void *options);
unsigned LZ4F_isError(size_t code);

#define LZ4_IN_SIZE 4096

static int fd;
static void *gzip; /* NULL with lz4 */
static void *context;
static char *buffer;
static size_t buffer_size;

static void fail(const char *what)
{
    printf("%s: %s\n", what, strerror(errno));
    exit(1);
}

static void put(const char *what, size_t length)
{
    if (LZ4F_isError(length)) {
        errno = EIO;
        fail(what);
    }
    errno = ENOSPC;
    if (write(fd, buffer, length) != (ssize_t)length)
        fail(what);
}

static void begin(const char *path, int with_gzip)
{
    char preferences[256] = {0};

    fd = open(path, O_WRONLY | O_CREAT, 0600);
    if (fd < 0)
        fail("open");
    if (with_gzip) {
        gzip = gzdopen(fd, "wb");
        if (gzip == NULL || gzsetparams(gzip, 1, 0) != 0)
            fail("gzdopen");
        return;
    }
    if (LZ4F_isError(LZ4F_createCompressionContext(&context, 100)))
        fail("context");
    buffer_size = LZ4F_compressBound(LZ4_IN_SIZE, NULL);
    buffer = malloc(buffer_size);
    put("begin", LZ4F_compressBegin(context, buffer, buffer_size, preferences));
}

static void write_data(const char *from, size_t length)
{
    if (gzip != NULL) {
        errno = 0;
        if (gzwrite(gzip, from, (unsigned)length) != (int)length)
            fail("write");
        return;
    }
    while (length > 0) {
        size_t chunk = length > LZ4_IN_SIZE ? LZ4_IN_SIZE : length;

        put("write",
            LZ4F_compressUpdate(context, buffer, buffer_size, from, chunk, NULL));
        from += chunk;
        length -= chunk;
    }
}

static void copy_file(const char *path, const char *copy)
{
    static char bytes[1 << 20];
    int in = open(path, O_RDONLY);
    int out = open(copy, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    ssize_t length = read(in, bytes, sizeof bytes);

    if (in < 0 || out < 0 || write(out, bytes, (size_t)length) != length)
        fail("copy");
    close(in);
    close(out);
}

static void flush(const char *path, const char *copy)
{
    if (gzip != NULL && gzflush(gzip, 2) != 0)
        fail("flush");
    if (gzip == NULL)
        put("flush", LZ4F_flush(context, buffer, buffer_size, NULL));
    copy_file(path, copy); /* Where a program would call fsync. */
}

static void other_call(const char *from, size_t length)
{
    if (gzip != NULL)
        gzfwrite(from, 1, length, gzip);
    else
        put("other", LZ4F_uncompressedUpdate(context, buffer, buffer_size, from, length, NULL));
}

static void finish(void)
{
    if (gzip != NULL && gzclose(gzip) != 0)
        fail("close");
    if (gzip == NULL) {
        put("close", LZ4F_compressEnd(context, buffer, buffer_size, NULL));
        if (close(fd) != 0)
            fail("close");
    }
}

static char *load(const char *path)
{
    FILE *file = fopen(path, "rb");
    char *data = malloc(1 << 24);

    if (file == NULL || data == NULL || fread(data, 1, 1 << 24, file) == 0)
        fail("data");
    fclose(file);
    return data;
}

int main(int argc, char **argv)
{
    const char *data = load(argv[2]);

    begin(argv[1], strcmp(argv[3], "gzip") == 0);
    for (int i = 4; i < argc; i++) {
        char *colon = strchr(argv[i], ':');
        const char *value = colon == NULL ? "" : colon + 1;
        size_t length = strtoul(value, NULL, 10);

        if (strncmp(argv[i], "write:", 6) == 0) {
            write_data(data, length);
            data += length;
        } else if (strncmp(argv[i], "flush:", 6) == 0) {
            flush(argv[1], value);
        } else if (strncmp(argv[i], "sneak:", 6) == 0) {
            if (write(fd, data, length) != (ssize_t)length)
                fail("sneak");
        } else if (strncmp(argv[i], "other:", 6) == 0) {
            other_call(data, length);
        } else {
            finish();
        }
    }
    return 0;
}
