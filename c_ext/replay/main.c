/*
 * replay/main.c - makes a server's recorded calls again, for `tde-bench io`.
 *
 * It is run under the name "postgres", in a directory that looks like a server's, once with the
 * interposer and once without.  Commands come as lines on standard input, and each is answered by a
 * line on standard output:
 *
 *     load STREAM                       its number
 *     run NUMBER                        nanoseconds of all its calls
 *     bare NUMBER ALGORITHM             the same, with nothing but the cipher added
 *     cipher ALGORITHM DECRYPTS COUNT SPAN
 *                                       nanoseconds of CPU time for so many pages, SPAN of them in turn
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "crypto/library.h"
#include "replay/run.h"
#include "replay/stream.h"

#define MOST_STREAMS 64

static struct tde_replay_stream *streams[MOST_STREAMS];
static unsigned int stream_count;

static int64_t load(const char *path)
{
    struct tde_replay_stream *stream;

    if (stream_count == MOST_STREAMS)
        return -1;
    stream = tde_replay_stream_read(path);
    if (stream == NULL || tde_replay_run_prepare(stream) != 0)
        return -1;
    streams[stream_count] = stream;
    return stream_count++;
}

static int64_t answer(const char *line)
{
    unsigned int number;
    uint64_t count;
    uint64_t span;
    int algorithm;
    int decrypts;

    /* The rest of the line: a directory may have a space in its name. */
    if (strncmp(line, "load ", 5) == 0)
        return load(line + 5);
    if (sscanf(line, "run %u", &number) == 1 && number < stream_count)
        return tde_replay_run(streams[number]);
    if (sscanf(line, "bare %u %d", &number, &algorithm) == 2 && number < stream_count)
        return tde_replay_run_bare(streams[number], algorithm);
    if (sscanf(line, "cipher %d %d %" SCNu64 " %" SCNu64, &algorithm, &decrypts, &count,
               &span) == 4)
        return tde_replay_run_cipher(algorithm, decrypts, count, span);
    fprintf(stderr, "what is \"%s\"?\n", line);
    return -1;
}

int main(int argc, char **argv)
{
    char line[4352];

    /* The interposer has a copy of the cipher's code of its own, and chooses for itself. */
    if (argc == 2) {
        const char *problem = tde_crypto_library_choose(argv[1]);

        if (problem != NULL) {
            fprintf(stderr, "%s: %s\n", argv[1], problem);
            return 1;
        }
    }
    if (tde_replay_memory_create() != 0) {
        perror("no memory");
        return 1;
    }
    while (fgets(line, sizeof line, stdin) != NULL) {
        int64_t result;

        line[strcspn(line, "\n")] = '\0';
        result = answer(line);
        if (result < 0)
            return 1;
        printf("%" PRId64 "\n", result);
        fflush(stdout);
    }
    return 0;
}
