/*
 * torn_read.c - a standby reads WAL pages while the walreceiver appends to the same page.
 *
 * usage: postgres PIECES SHIFT READS; reads the page so often into PIECES parts, SHIFT bytes behind
 * aligned addresses, and prints in how many reads bytes that were flushed before, and that
 * nobody writes, came out wrong.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "server_symbols.h"

#define PAGE 8192
/* A record ends at a multiple of 8 bytes, here in the middle of an AES block. */
#define FLUSHED (8 * 501)

static const char segment[] = "pg_wal/000000010000000000000001";

static void append_for_ever(void)
{
    int fd = open(segment, O_RDWR);
    unsigned char record[56];

    for (unsigned seed = 1;; seed++) {
        unsigned state = seed;

        for (size_t i = 0; i < sizeof record; i++)
            record[i] = (unsigned char)rand_r(&state);
        if (pwrite(fd, record, seed % 2 == 0 ? 8 : sizeof record, FLUSHED) < 0)
            abort();
    }
}

/* One page in two parts or in one; true when what was flushed is as it was. */
static int is_intact(int fd, unsigned char *to, int pieces, size_t shift,
                     const unsigned char *flushed)
{
    const struct iovec iov[2] = {{to + shift, PAGE}, {to + 2 * PAGE + shift, PAGE}};
    ssize_t got = pieces == 1 ? pread(fd, to + shift, PAGE, 0) : preadv(fd, iov, 2, 0);

    if (got != pieces * PAGE)
        abort();
    return memcmp(to + shift, flushed, FLUSHED) == 0;
}

int main(int count, char **arguments)
{
    static unsigned char first[2 * PAGE];
    unsigned char *to = aligned_alloc(4096, 4 * PAGE);
    long wrong = 0;
    int fd;
    pid_t writer;

    if (count != 4)
        return 2;
    for (int i = 0; i < FLUSHED; i++)
        first[i] = (unsigned char)(rand() >> 8);
    first[PAGE] = 1; /* The second page is not zeros. */
    fd = open(segment, O_RDWR | O_CREAT, 0600);
    if (fd < 0 || pwrite(fd, first, sizeof first, 0) != (ssize_t)sizeof first)
        return 1;
    writer = fork();
    if (writer == 0)
        append_for_ever();
    for (long left = atol(arguments[3]); left > 0; left--)
        wrong += !is_intact(fd, to, atoi(arguments[1]), (size_t)atoi(arguments[2]), first);
    kill(writer, SIGKILL);
    waitpid(writer, NULL, 0);
    printf("%ld\n", wrong);
    return 0;
}
