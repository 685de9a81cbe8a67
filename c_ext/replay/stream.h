/*
 * replay/stream.h - the calls of one class of files, in the order in which a server made them.
 *
 * A stream is a text of lines; docs/benchmarks.md says how it was recorded:
 *
 *     file PATH START
 *     call OPERATION FILE OFFSET LENGTH PARTS SKEW ZEROS
 *
 * START is the file's length in bytes before the first call.  FILE counts the lines of files from
 * 0.  SKEW is how far the caller's memory lay behind a multiple of 64.
 */
#ifndef TDE_REPLAY_STREAM_H
#define TDE_REPLAY_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define TDE_REPLAY_PAGE 8192u

enum tde_replay_operation {
    TDE_REPLAY_READ = 'r',     /* pread, or preadv where there are PARTS */
    TDE_REPLAY_WRITE = 'w',    /* pwrite or pwritev */
    TDE_REPLAY_SYNC = 's',     /* fsync */
    TDE_REPLAY_DATASYNC = 'd', /* fdatasync */
    TDE_REPLAY_FLUSH = 'f',    /* sync_file_range */
    TDE_REPLAY_ADVISE = 'a',   /* posix_fadvise */
    TDE_REPLAY_ALLOCATE = 'A', /* posix_fallocate */
    TDE_REPLAY_TRUNCATE = 't', /* ftruncate to LENGTH */
    TDE_REPLAY_END = 'e',      /* lseek to the end, which is how a server asks for a length */
    TDE_REPLAY_OPEN = 'o',     /* open, and close */
};

struct tde_replay_file {
    char *path;
    off_t start; /* its length before the first call */
    off_t end;   /* and the largest that a call gives it */
    int fd; /* -1 while it is not open */
};

struct tde_replay_call {
    enum tde_replay_operation operation;
    uint32_t file;
    off_t offset;
    size_t length;
    uint32_t parts; /* of a vector; 1 for a call without one */
    uint32_t skew;
    bool zeros; /* what is written is a new page, or a new segment */
};

struct tde_replay_stream {
    struct tde_replay_file *files;
    size_t file_count;
    struct tde_replay_call *calls;
    size_t call_count;
    bool grows; /* a file is longer after it than before */
};

/* NULL after a message on standard error. */
struct tde_replay_stream *tde_replay_stream_read(const char *path);
void tde_replay_stream_free(struct tde_replay_stream *stream);

#endif
