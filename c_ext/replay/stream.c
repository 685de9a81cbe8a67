/*
 * replay/stream.c - see replay/stream.h.
 */
#include "replay/stream.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LONGEST_LINE 4352
#define LONGEST_PATH "4095"

/* Room for one more of SIZE bytes behind COUNT, or NULL. */
static void *grow(void *array, size_t count, size_t size)
{
    /* Only where COUNT is a power of two is the array full. */
    if ((count & (count - 1)) != 0)
        return array;
    return realloc(array, (count == 0 ? 1 : 2 * count) * size);
}

static int add_file(struct tde_replay_stream *stream, const char *line)
{
    char path[4096];
    long long start;
    struct tde_replay_file *files = grow(stream->files, stream->file_count, sizeof *files);

    if (files == NULL)
        return -1;
    stream->files = files;
    if (sscanf(line, "file %" LONGEST_PATH "s %lld", path, &start) != 2 || start < 0)
        return -1;
    files[stream->file_count] =
        (struct tde_replay_file){strdup(path), (off_t)start, (off_t)start, -1};
    return files[stream->file_count++].path == NULL ? -1 : 0;
}

/* What a call does to the length of its file. */
static void note_length(struct tde_replay_stream *stream, const struct tde_replay_call *call)
{
    struct tde_replay_file *file = &stream->files[call->file];
    off_t end = call->offset + (off_t)call->length;

    if ((call->operation == TDE_REPLAY_WRITE || call->operation == TDE_REPLAY_ALLOCATE) &&
        end > file->end)
        file->end = end;
    if (call->operation == TDE_REPLAY_TRUNCATE || file->end > file->start)
        stream->grows = true;
}

static int add_call(struct tde_replay_stream *stream, const char *line)
{
    struct tde_replay_call *calls = grow(stream->calls, stream->call_count, sizeof *calls);
    struct tde_replay_call *call;
    unsigned int zeros;
    long long offset;
    char operation;

    if (calls == NULL)
        return -1;
    stream->calls = calls;
    call = &calls[stream->call_count];
    if (sscanf(line, "call %c %u %lld %zu %u %u %u", &operation, &call->file, &offset,
               &call->length, &call->parts, &call->skew, &zeros) != 7 ||
        call->file >= stream->file_count || call->parts == 0 || call->skew >= 64)
        return -1;
    call->operation = (enum tde_replay_operation)operation;
    call->offset = (off_t)offset;
    call->zeros = zeros != 0;
    note_length(stream, call);
    stream->call_count++;
    return 0;
}

struct tde_replay_stream *tde_replay_stream_read(const char *path)
{
    struct tde_replay_stream *stream = calloc(1, sizeof *stream);
    FILE *from = fopen(path, "re");
    char line[LONGEST_LINE];
    int result = stream == NULL || from == NULL ? -1 : 0;
    unsigned long number = 0;

    while (result == 0 && fgets(line, sizeof line, from) != NULL) {
        number++;
        result = strncmp(line, "file ", 5) == 0 ? add_file(stream, line) : add_call(stream, line);
    }
    if (from != NULL)
        fclose(from);
    if (result == 0)
        return stream;
    fprintf(stderr, "could not read the stream %s, line %lu\n", path, number);
    tde_replay_stream_free(stream);
    return NULL;
}

void tde_replay_stream_free(struct tde_replay_stream *stream)
{
    if (stream == NULL)
        return;
    for (size_t i = 0; i < stream->file_count; i++)
        free(stream->files[i].path);
    free(stream->files);
    free(stream->calls);
    free(stream);
}
