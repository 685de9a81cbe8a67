/*
 * replay/run.h - make the calls of a stream, and tell how long they take.
 */
#ifndef TDE_REPLAY_RUN_H
#define TDE_REPLAY_RUN_H

#include <stdint.h>

#include "replay/stream.h"

/*
 * The memory that calls read into and write from, shared like a server's buffers, and as large as
 * what one core's caches hold at most of those.  0, or -1 with errno.
 */
int tde_replay_memory_create(void);

/* Make the files of a stream, with content wherever a call reads.  0, or -1 after a message. */
int tde_replay_run_prepare(struct tde_replay_stream *stream);

/*
 * Give every file the length that it had, make all calls, and return the nanoseconds that they
 * took; -1 after a message.
 */
int64_t tde_replay_run(struct tde_replay_stream *stream);

/*
 * The same with the cipher alone in front of each call: the least that encryption with it can take.
 * For a process without the interposer.
 */
int64_t tde_replay_run_bare(struct tde_replay_stream *stream, int algorithm);

/* The CPU time of the cipher alone for COUNT pages, in place, one by one: SPAN of them in turn. */
int64_t tde_replay_run_cipher(int algorithm, int decrypts, uint64_t count, uint64_t span);

#endif
