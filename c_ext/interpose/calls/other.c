/*
 * calls/other.c - calls that would get around the cipher: emulated or refused.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <unistd.h>

#include "interpose/blocks/buffer.h"
#include "interpose/blocks/status.h"
#include "interpose/control/control.h"
#include "interpose/files/table.h"
#include "interpose/keys/ring.h"
#include "interpose/libc/report.h"
#include "interpose/libc/symbols.h"
#include "interpose/policy/cluster.h"
#include "interpose/policy/harm.h"
#include "interpose/policy/messages.h"
#include "interpose/policy/role.h"
#include "interpose/policy/unknown.h"

/*
 * An encrypted cluster includes this file from postgresql.conf; it exists nowhere.  A
 * server without the interposer therefore stops before it reads any WAL, with a message
 * that names the remedy (tde/postgres/cluster/guard.py).
 */
static const char guard_file[] = "tde-start-this-cluster-with-tde-pg-start.conf";

/*
 * A server works in its data directory, by which tde finds it.  The postmaster goes there before
 * its first fork, so what it loads is there for all.  It ends where it cannot go there.
 */
TDE_EXPORT int chdir(const char *path)
{
    int result = tde_libc()->chdir(path);

    if (result == 0) {
        int saved = errno;

        tde_blocks_status_directory();
        if (tde_policy_role() == TDE_ROLE_SERVER && tde_keys_load_all() != 0)
            return -1;
        errno = saved;
    }
    return result;
}

/* A page that is mapped would be ciphertext to the program and plaintext on disk. */
TDE_EXPORT void *mmap(void *address, size_t length, int protection, int flags, int fd,
                      off_t offset)
{
    if ((flags & MAP_ANONYMOUS) == 0 && tde_files_find(fd) != NULL) {
        errno = ENODEV;
        return MAP_FAILED;
    }
    return tde_libc()->mmap(address, length, protection, flags, fd, offset);
}

/* Move a file offset that the caller keeps, or the descriptor's own. */
static int skip(int fd, off_t *offset, off_t distance)
{
    if (offset == NULL)
        return distance == 0 || lseek(fd, distance, SEEK_CUR) >= 0 ? 0 : -1;
    *offset += distance;
    return 0;
}

static ssize_t copy_chunk(int in, off_t *in_offset, int out, off_t *out_offset, uint8_t *chunk,
                          size_t length)
{
    ssize_t got = in_offset != NULL ? pread(in, chunk, length, *in_offset)
                                    : read(in, chunk, length);
    ssize_t put;

    if (got <= 0)
        return got;
    put = out_offset != NULL ? pwrite(out, chunk, (size_t)got, *out_offset)
                             : write(out, chunk, (size_t)got);
    if (put < 0)
        return -1;
    /* read has moved the input by all that it got, pread by nothing. */
    if (skip(in, in_offset, in_offset != NULL ? put : put - got) != 0)
        return -1;
    if (out_offset != NULL)
        *out_offset += put;
    return put;
}

/* The identities of source and destination differ, so the bytes go through memory. */
static ssize_t copy_through_memory(int in, off_t *in_offset, int out, off_t *out_offset,
                                   size_t length)
{
    uint8_t *chunk = malloc(TDE_BOUNCE_SIZE);
    size_t done = 0;
    ssize_t n = 1;

    if (chunk == NULL)
        return -1;
    while (done < length && n > 0) {
        size_t asked = length - done < TDE_BOUNCE_SIZE ? length - done : TDE_BOUNCE_SIZE;

        n = copy_chunk(in, in_offset, out, out_offset, chunk, asked);
        if (n > 0)
            done += (size_t)n;
    }
    free(chunk);
    return done > 0 ? (ssize_t)done : n;
}

TDE_EXPORT ssize_t copy_file_range(int in, off_t *in_offset, int out, off_t *out_offset,
                                   size_t length, unsigned int flags)
{
    if (tde_files_find(in) == NULL && tde_files_find(out) == NULL)
        return tde_libc()->copy_file_range(in, in_offset, out, out_offset, length, flags);
    if (flags != 0) {
        errno = EINVAL;
        return -1;
    }
    return copy_through_memory(in, in_offset, out, out_offset, length);
}

/* Callers of these fall back to read and write, which are encrypted. */
TDE_EXPORT ssize_t sendfile(int out, int in, off_t *offset, size_t length)
{
    if (tde_files_find(in) != NULL || tde_files_find(out) != NULL) {
        errno = EINVAL;
        return -1;
    }
    return tde_libc()->sendfile(out, in, offset, length);
}

TDE_EXPORT ssize_t splice(int in, off_t *in_offset, int out, off_t *out_offset, size_t length,
                          unsigned int flags)
{
    if (tde_files_find(in) != NULL || tde_files_find(out) != NULL) {
        errno = EINVAL;
        return -1;
    }
    return tde_libc()->splice(in, in_offset, out, out_offset, length, flags);
}

static int is_guard_file(const char *path)
{
    const char *slash = strrchr(path, '/');

    return strcmp(slash == NULL ? path : slash + 1, guard_file) == 0;
}

/*
 * Streams do their I/O inside the C library.  Reading raw bytes that way is harmless
 * (pg_read_binary_file, which pg_rewind uses, is meant to); writing would not be.
 */
static int is_refused_stream(const char *path, const char *mode)
{
    struct tde_identity id;
    const char *name;
    int file_class;

    if (tde_policy_role() != TDE_ROLE_SERVER || strpbrk(mode, "wa+") == NULL)
        return 0;
    if (tde_policy_harm_refuses(AT_FDCWD, path, true))
        return 1;
    file_class = tde_policy_unknown_settle(tde_format_parse_path(path, &id, &name), AT_FDCWD, path,
                                           strpbrk(mode, "wa") != NULL);
    if (file_class <= TDE_CLASS_PLAIN)
        return file_class < 0;
    tde_libc_report("refused to write %s as a stream: its blocks would not be encrypted", path);
    errno = EOPNOTSUPP;
    return 1;
}

TDE_EXPORT FILE *fopen(const char *path, const char *mode)
{
    if (tde_policy_role() == TDE_ROLE_SERVER && tde_keys_are_open() && is_guard_file(path)) {
        tde_policy_messages_receive();
        return tde_libc()->fopen("/dev/null", mode);
    }
    /* A postmaster looks at it before it writes postmaster.pid; later it would be a PANIC. */
    if (tde_policy_role() == TDE_ROLE_SERVER && tde_control_is_path(path) &&
        !tde_policy_cluster_may_start())
        return NULL;
    return is_refused_stream(path, mode) ? NULL : tde_libc()->fopen(path, mode);
}

TDE_EXPORT FILE *freopen(const char *path, const char *mode, FILE *stream)
{
    if (path != NULL && is_refused_stream(path, mode))
        return NULL;
    return tde_libc()->freopen(path, mode, stream);
}

/*
 * A ring of io_uring reads and writes files inside the kernel, where nothing is encrypted.
 * Without a ring none of liburing's other functions can do anything, so only those that make
 * one are refused.  They return negative error numbers.
 */
struct io_uring;
struct io_uring_params;

int io_uring_queue_init(unsigned int entries, struct io_uring *ring, unsigned int flags);
int io_uring_queue_init_params(unsigned int entries, struct io_uring *ring,
                               struct io_uring_params *params);
int io_uring_queue_init_mem(unsigned int entries, struct io_uring *ring,
                            struct io_uring_params *params, void *memory, size_t size);
int io_uring_setup(unsigned int entries, struct io_uring_params *params);

/* liburing's own function NAME into *FUNCTION: 0, or what the wrapper returns instead. */
static int find_ring_maker(const char *name, void *function, size_t size)
{
    void *symbol;

    if (tde_keys_are_open()) {
        tde_libc_report("refused to set up io_uring: what it reads and writes would not be "
                        "encrypted; HINT: set io_method = worker");
        return -EPERM;
    }
    symbol = dlsym(RTLD_NEXT, name);
    memcpy(function, &symbol, size);
    return symbol == NULL ? -ENOSYS : 0;
}

TDE_EXPORT int io_uring_queue_init(unsigned int entries, struct io_uring *ring,
                                   unsigned int flags)
{
    int (*next)(unsigned int, struct io_uring *, unsigned int);
    int error = find_ring_maker("io_uring_queue_init", &next, sizeof next);

    return error != 0 ? error : next(entries, ring, flags);
}

TDE_EXPORT int io_uring_queue_init_params(unsigned int entries, struct io_uring *ring,
                                          struct io_uring_params *params)
{
    int (*next)(unsigned int, struct io_uring *, struct io_uring_params *);
    int error = find_ring_maker("io_uring_queue_init_params", &next, sizeof next);

    return error != 0 ? error : next(entries, ring, params);
}

TDE_EXPORT int io_uring_queue_init_mem(unsigned int entries, struct io_uring *ring,
                                       struct io_uring_params *params, void *memory, size_t size)
{
    int (*next)(unsigned int, struct io_uring *, struct io_uring_params *, void *, size_t);
    int error = find_ring_maker("io_uring_queue_init_mem", &next, sizeof next);

    return error != 0 ? error : next(entries, ring, params, memory, size);
}

TDE_EXPORT int io_uring_setup(unsigned int entries, struct io_uring_params *params)
{
    int (*next)(unsigned int, struct io_uring_params *);
    int error = find_ring_maker("io_uring_setup", &next, sizeof next);

    return error != 0 ? error : next(entries, params);
}

/* On 64-bit systems the large-file names are the same functions. */
TDE_EXPORT void *mmap64(void *address, size_t length, int protection, int flags, int fd,
                        off_t offset) __attribute__((alias("mmap")));
TDE_EXPORT ssize_t sendfile64(int out, int in, off_t *offset, size_t length)
    __attribute__((alias("sendfile")));
TDE_EXPORT FILE *fopen64(const char *path, const char *mode) __attribute__((alias("fopen")));
TDE_EXPORT FILE *freopen64(const char *path, const char *mode, FILE *stream)
    __attribute__((alias("freopen")));
