/*
 * tar_receiver.c - writes a pg_wal.tar.gz as PostgreSQL's walmethods.c does.
 *
 * tar_receiver FILE DATA STEP…   The bytes come from DATA, from its start on.  Steps:
 *
 *   header:N   N bytes as a gzip stream of their own
 *   again:N    the same, written where the last header:N was
 *   write:N    N bytes into the present stream
 *   finish     end the stream
 *   sneak:N    write N bytes to the file itself, past zlib
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* That of zlib.h, which need not be installed. */
struct z_stream {
    unsigned char *next_in;
    unsigned int avail_in;
    unsigned long total_in;
    unsigned char *next_out;
    unsigned int avail_out;
    unsigned long total_out;
    void *others[8];
};
int deflateInit2_(struct z_stream *stream, int level, int method, int window, int memory,
                  int strategy, const char *version, int size);
int deflateParams(struct z_stream *stream, int level, int strategy);
int deflate(struct z_stream *stream, int flush);
int deflateReset(struct z_stream *stream);

#define Z_FINISH 4
#define Z_STREAM_END 1
#define OUT_SIZE 4096

static int fd;
static struct z_stream stream;
static unsigned char out[OUT_SIZE];

static void fail(const char *what)
{
    printf("%s: %s\n", what, strerror(errno));
    exit(1);
}

static void compress_bytes(unsigned char *from, size_t length, int finish)
{
    stream.next_in = from;
    stream.avail_in = (unsigned)length;
    while (stream.avail_in > 0 || finish) {
        int result = deflate(&stream, finish ? Z_FINISH : 0);

        if (result == -2)
            fail("deflate");
        if (stream.avail_out < OUT_SIZE) {
            size_t made = OUT_SIZE - stream.avail_out;

            if (write(fd, out, made) != (ssize_t)made)
                fail("write");
            stream.next_out = out;
            stream.avail_out = OUT_SIZE;
        }
        if (result == Z_STREAM_END)
            break;
    }
    if (finish && deflateReset(&stream) != 0)
        fail("reset");
}

static void write_header(unsigned char *from, size_t length)
{
    if (deflateParams(&stream, 0, 0) != 0)
        fail("parameters");
    compress_bytes(from, length, 1);
    if (deflateParams(&stream, 6, 0) != 0)
        fail("parameters");
}

static void step(const char *what, unsigned char *data, size_t length)
{
    static off_t header;

    if (strncmp(what, "header", 6) == 0) {
        compress_bytes(NULL, 0, 1);
        header = lseek(fd, 0, SEEK_CUR);
        write_header(data, length);
    } else if (strncmp(what, "again", 5) == 0) {
        lseek(fd, header, SEEK_SET);
        write_header(data, length);
        lseek(fd, 0, SEEK_END);
    } else if (strncmp(what, "write", 5) == 0) {
        compress_bytes(data, length, 0);
    } else if (strncmp(what, "finish", 6) == 0) {
        compress_bytes(NULL, 0, 1);
    } else if (write(fd, data, length) != (ssize_t)length) {
        fail("sneak");
    }
}

int main(int argc, char **argv)
{
    static unsigned char data[1 << 20];
    FILE *file = fopen(argv[2], "rb");
    size_t at = 0;

    if (file == NULL || fread(data, 1, sizeof data, file) == 0)
        fail("data");
    fclose(file);
    fd = open(argv[1], O_WRONLY | O_CREAT, 0600);
    if (fd < 0)
        fail("open");
    stream.next_out = out;
    stream.avail_out = OUT_SIZE;
    if (deflateInit2_(&stream, 6, 8, 15 + 16, 8, 0, "1", (int)sizeof stream) != 0)
        fail("init");
    for (int i = 3; i < argc; i++) {
        const char *colon = strchr(argv[i], ':');
        size_t length = colon == NULL ? 0 : strtoul(colon + 1, NULL, 10);

        step(argv[i], data + at, length);
        at += length;
    }
    return 0;
}
