/*
 * replay/run.c - see replay/run.h.
 *
 * One thread makes all calls, so what a call costs is what the time says.  The clock is read once
 * before and once after a stream: read around each call it would weigh as much as what is measured.
 */
#include "replay/run.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "crypto/cipher.h"

#define POOL_PAGES 2048u
#define POOL_SIZE ((size_t)POOL_PAGES * TDE_REPLAY_PAGE)
/* The longest call that a server makes, and room for its skew. */
#define LONGEST_CALL ((size_t)16 << 20)
#define MOST_PARTS 128u

static uint8_t *pool;  /* what is in buffers */
static uint8_t *zeros; /* what new files are made of */
static uint8_t *bounce;
static size_t next_page;

/* What every read and write passes through in tde_replay_run_bare; NULL otherwise. */
static struct tde_cipher *bare;

static int64_t read_clock(clockid_t clock)
{
    struct timespec time;

    clock_gettime(clock, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static int failed(const char *what, const char *path)
{
    fprintf(stderr, "could not %s %s: %s\n", what, path, strerror(errno));
    return -1;
}

int tde_replay_memory_create(void)
{
    size_t size = POOL_SIZE + LONGEST_CALL + TDE_REPLAY_PAGE;
    uint64_t value = 0;

    pool = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    zeros = mmap(NULL, LONGEST_CALL, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    bounce = aligned_alloc(4096, LONGEST_CALL);
    if (pool == MAP_FAILED || zeros == MAP_FAILED || bounce == NULL)
        return -1;
    memset(zeros, 0, LONGEST_CALL); /* So that its pages are there. */
    for (size_t at = 0; at + sizeof value <= size; at += sizeof value) {
        value = value * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        memcpy(pool + at, &value, sizeof value);
    }
    return 0;
}

/* The memory of the next call: buffers one after the other, as they come with a clock sweep. */
static uint8_t *take(size_t length)
{
    uint8_t *memory = pool + next_page * TDE_REPLAY_PAGE;

    next_page = (next_page + (length + TDE_REPLAY_PAGE - 1) / TDE_REPLAY_PAGE) % POOL_PAGES;
    return memory;
}

/* A vector of equal parts, each in a buffer of its own that does not follow the one before. */
static int make_vector(const struct tde_replay_call *call, struct iovec *iov)
{
    for (uint32_t i = 0; i < call->parts; i++) {
        iov[i].iov_len = call->length / call->parts;
        iov[i].iov_base = call->zeros ? zeros : take(iov[i].iov_len + TDE_REPLAY_PAGE);
    }
    return (int)call->parts;
}

/* The least that there is to do: whole pages through the cipher, FROM one memory TO another. */
static int pass_through(bool decrypts, off_t offset, const uint8_t *from, uint8_t *to,
                        size_t length)
{
    uint8_t tweak[TDE_TWEAK_SIZE] = {0};

    for (size_t done = 0; done + TDE_REPLAY_PAGE <= length; done += TDE_REPLAY_PAGE) {
        off_t at = offset + (off_t)done;
        int result;

        memcpy(tweak, &at, sizeof at);
        result = decrypts
                     ? tde_crypto_decrypt(bare, tweak, from + done, to + done, TDE_REPLAY_PAGE)
                     : tde_crypto_encrypt(bare, tweak, from + done, to + done, TDE_REPLAY_PAGE);
        if (result != 0)
            return -1;
    }
    return 0;
}

static ssize_t make_read(const struct tde_replay_call *call, int fd)
{
    struct iovec iov[MOST_PARTS];
    uint8_t *to;
    ssize_t got;

    if (call->parts > 1) {
        int count = make_vector(call, iov);

        got = preadv(fd, iov, count, call->offset);
        for (int i = 0; bare != NULL && i < count; i++)
            if (pass_through(true, call->offset, iov[i].iov_base, iov[i].iov_base,
                             iov[i].iov_len) != 0)
                return -1;
        return got;
    }
    to = take(call->length) + call->skew;
    got = pread(fd, to, call->length, call->offset);
    if (bare != NULL && pass_through(true, call->offset, to, to, call->length) != 0)
        return -1;
    return got;
}

/* The caller's memory must not change, so what is written comes from another one. */
static ssize_t make_bare_write(const struct tde_replay_call *call, int fd)
{
    size_t part = call->length / call->parts;

    for (uint32_t i = 0; i < call->parts; i++)
        if (pass_through(false, call->offset, take(part), bounce + i * part, part) != 0)
            return -1;
    return pwrite(fd, bounce, call->length, call->offset);
}

static ssize_t make_write(const struct tde_replay_call *call, int fd)
{
    struct iovec iov[MOST_PARTS];

    if (bare != NULL && !call->zeros)
        return make_bare_write(call, fd);

    if (call->parts > 1)
        return pwritev(fd, iov, make_vector(call, iov), call->offset);
    return pwrite(fd, call->zeros ? zeros : take(call->length) + call->skew, call->length,
                  call->offset);
}

static int make_open(const struct tde_replay_file *file)
{
    int fd = open(file->path, O_RDWR | O_CLOEXEC);

    return fd < 0 ? -1 : close(fd);
}

/* 0 when the call did what it did in the server. */
static int make_call(const struct tde_replay_call *call, const struct tde_replay_file *file)
{
    off_t length = (off_t)call->length;

    switch (call->operation) {
    case TDE_REPLAY_READ:
        return make_read(call, file->fd) == length ? 0 : -1;
    case TDE_REPLAY_WRITE:
        return make_write(call, file->fd) == length ? 0 : -1;
    case TDE_REPLAY_SYNC:
        return fsync(file->fd);
    case TDE_REPLAY_DATASYNC:
        return fdatasync(file->fd);
    case TDE_REPLAY_FLUSH:
        return sync_file_range(file->fd, call->offset, length, SYNC_FILE_RANGE_WRITE);
    case TDE_REPLAY_ADVISE:
        return posix_fadvise(file->fd, call->offset, length, POSIX_FADV_WILLNEED);
    case TDE_REPLAY_ALLOCATE:
        return posix_fallocate(file->fd, call->offset, length);
    case TDE_REPLAY_TRUNCATE:
        return ftruncate(file->fd, length);
    case TDE_REPLAY_END:
        return lseek(file->fd, 0, SEEK_END) < 0 ? -1 : 0;
    case TDE_REPLAY_OPEN:
        return make_open(file);
    default:
        errno = EINVAL;
        return -1;
    }
}

/* Content for what the call reads: whole pages, which are not zeros. */
static int fill(const struct tde_replay_call *call, const struct tde_replay_file *file)
{
    off_t first = call->offset - call->offset % (off_t)TDE_REPLAY_PAGE;
    off_t end = call->offset + (off_t)call->length;

    for (off_t at = first; at < end; at += (off_t)TDE_REPLAY_PAGE)
        if (pwrite(file->fd, take(TDE_REPLAY_PAGE), TDE_REPLAY_PAGE, at) !=
            (ssize_t)TDE_REPLAY_PAGE)
            return failed("write", file->path);
    return 0;
}

int tde_replay_run_prepare(struct tde_replay_stream *stream)
{
    for (size_t i = 0; i < stream->file_count; i++) {
        struct tde_replay_file *file = &stream->files[i];

        file->fd = open(file->path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        if (file->fd < 0)
            return failed("open", file->path);
        if (ftruncate(file->fd, file->start) != 0)
            return failed("truncate", file->path);
    }
    for (size_t i = 0; i < stream->call_count; i++) {
        const struct tde_replay_call *call = &stream->calls[i];

        if (call->length > LONGEST_CALL || call->parts > MOST_PARTS) {
            fprintf(stderr, "a call of %zu bytes in %u parts is too long\n", call->length,
                    call->parts);
            return -1;
        }
        if (call->operation == TDE_REPLAY_READ && fill(call, &stream->files[call->file]) != 0)
            return -1;
    }
    return 0;
}

/*
 * Give a file the length that it had.  Memory or blocks for what it grows by are taken now: how
 * long the kernel looks for them would be noise, ten times what encryption takes.
 */
static int reset(const struct tde_replay_file *file)
{
    if (ftruncate(file->fd, file->start) != 0)
        return failed("truncate", file->path);
    if (file->end > file->start && fallocate(file->fd, FALLOC_FL_KEEP_SIZE, file->start,
                                             file->end - file->start) != 0)
        return failed("take space for", file->path);
    return 0;
}

int64_t tde_replay_run(struct tde_replay_stream *stream)
{
    int64_t start;

    for (size_t i = 0; stream->grows && i < stream->file_count; i++)
        if (reset(&stream->files[i]) != 0)
            return -1;
    next_page = 0; /* So that all passes use the same memory. */
    start = read_clock(CLOCK_MONOTONIC);
    for (size_t i = 0; i < stream->call_count; i++) {
        const struct tde_replay_call *call = &stream->calls[i];

        if (make_call(call, &stream->files[call->file]) != 0) {
            fprintf(stderr, "call %zu of the stream, '%c' of %zu bytes at %jd, did not work: ", i,
                    call->operation, call->length, (intmax_t)call->offset);
            return failed("replay", stream->files[call->file].path);
        }
    }
    return read_clock(CLOCK_MONOTONIC) - start;
}

static struct tde_cipher *make_cipher(int algorithm)
{
    struct tde_cipher *cipher;
    uint8_t key[64];

    for (size_t i = 0; i < sizeof key; i++)
        key[i] = (uint8_t)i;
    cipher = tde_crypto_cipher_new(algorithm, key);
    if (cipher == NULL)
        fprintf(stderr, "there is no cipher %d\n", algorithm);
    return cipher;
}

int64_t tde_replay_run_bare(struct tde_replay_stream *stream, int algorithm)
{
    int64_t result;

    bare = make_cipher(algorithm);
    if (bare == NULL)
        return -1;
    result = tde_replay_run(stream);
    tde_crypto_cipher_free(bare);
    bare = NULL;
    return result;
}

int64_t tde_replay_run_cipher(int algorithm, int decrypts, uint64_t count, uint64_t span)
{
    uint8_t tweak[TDE_TWEAK_SIZE] = {0};
    struct tde_cipher *cipher;
    int result = 0;
    int64_t start;

    cipher = span == 0 || span > POOL_PAGES ? NULL : make_cipher(algorithm);
    if (cipher == NULL)
        return -1;
    start = read_clock(CLOCK_THREAD_CPUTIME_ID);
    for (uint64_t i = 0; i < count && result == 0; i++) {
        uint8_t *page = pool + i % span * TDE_REPLAY_PAGE;

        memcpy(tweak, &i, sizeof i);
        result = decrypts ? tde_crypto_decrypt(cipher, tweak, page, page, TDE_REPLAY_PAGE)
                          : tde_crypto_encrypt(cipher, tweak, page, page, TDE_REPLAY_PAGE);
    }
    start = read_clock(CLOCK_THREAD_CPUTIME_ID) - start;
    tde_crypto_cipher_free(cipher);
    return result == 0 ? start : -1;
}
