/*
 * faults.c - a disk that fails as planned, for tests.
 *
 * Preloaded behind the interposer, it stands between it and the C library; preloaded
 * alone, between a program and the C library.  The plan is a file (TDE_TEST_FAULTS)
 * that faults.py writes and that all processes share: what strikes once strikes once
 * whichever process it is, and a test can change the plan while a server runs.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* The same layout and numbers as in faults.py. */
enum call { CALL_READ = 1, CALL_WRITE = 2, CALL_SYNC = 4, CALL_TRUNCATE = 8, CALL_OPEN = 16,
            CALL_ALLOCATE = 32, CALL_UNALIGNED_READ = 64 };

#define RULES 8

struct rule {
    uint32_t calls;       /* 0: no rule */
    int32_t error;        /* 0: none, the call is cut short */
    int64_t at_most;      /* bytes that a call that is cut short transfers */
    int64_t skip;         /* calls that pass before it strikes for the first time */
    int64_t times;        /* strikes, in all processes together */
    int64_t every;        /* of the calls from then on, each which it strikes */
    _Atomic int64_t seen; /* calls until now */
    _Atomic int64_t hits; /* strikes until now */
    char pattern[200];    /* of the file's name, as fnmatch */
};

_Static_assert(sizeof(struct rule) == 256, "faults.py knows this layout");

static struct rule *plan;

/* A script opens "faults-off" and "faults-on", which do not exist, to choose its moment. */
static int off;

__attribute__((constructor)) static void map_plan(void)
{
    const char *path = getenv("TDE_TEST_FAULTS");
    int fd = path == NULL ? -1 : open(path, O_RDWR | O_CLOEXEC);
    void *mapped;

    if (fd < 0)
        return;
    mapped = mmap(NULL, RULES * sizeof *plan, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (mapped != MAP_FAILED)
        plan = mapped;
    close(fd);
}

static int strikes(struct rule *rule)
{
    int64_t number = atomic_fetch_add(&rule->seen, 1) - rule->skip;

    if (number < 0 || number % rule->every != 0 || number / rule->every >= rule->times)
        return 0;
    atomic_fetch_add(&rule->hits, 1);
    return 1;
}

/* The first rule that strikes this call on this path, or NULL; each rule counts the call. */
static struct rule *find(unsigned call, const char *path)
{
    struct rule *first = NULL;

    for (struct rule *rule = plan; rule != NULL && rule < plan + RULES; rule++)
        if ((rule->calls & call) != 0 && fnmatch(rule->pattern, path, 0) == 0 &&
            strikes(rule) && first == NULL)
            first = rule;
    return first;
}

static int is_planned(unsigned call)
{
    if (off)
        return 0;
    for (struct rule *rule = plan; rule != NULL && rule < plan + RULES; rule++)
        if ((rule->calls & call) != 0)
            return 1;
    return 0;
}

static struct rule *find_fd(unsigned call, int fd)
{
    char link[64];
    char path[PATH_MAX];
    int saved = errno;
    ssize_t n;

    if (!is_planned(call))
        return NULL;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    n = readlink(link, path, sizeof path - 1);
    errno = saved;
    if (n <= 0)
        return NULL;
    path[n] = '\0';
    return find(call, path);
}

/* Whether the call fails.  What it may transfer at most goes to *LENGTH. */
static int fails(unsigned call, int fd, size_t *length)
{
    struct rule *rule = find_fd(call, fd);

    if (rule == NULL)
        return 0;
    if (rule->error == 0) {
        if (length != NULL && *length > (size_t)rule->at_most)
            *length = (size_t)rule->at_most;
        return 0;
    }
    errno = rule->error;
    return 1;
}

/* Cut a vector to LENGTH bytes; returns the number of parts that are left. */
static int cut(const struct iovec *from, int count, size_t length, struct iovec *to)
{
    int parts = 0;

    for (int i = 0; i < count && length > 0; i++) {
        to[parts] = from[i];
        if (to[parts].iov_len > length)
            to[parts].iov_len = length;
        length -= to[parts++].iov_len;
    }
    return parts;
}

static size_t total(const struct iovec *iov, int count)
{
    size_t length = 0;

    for (int i = 0; i < count; i++)
        length += iov[i].iov_len;
    return length;
}

/* A read into memory where the kernel may tear an AES block is of two kinds. */
static unsigned kinds(unsigned call, const void *memory)
{
    return call == CALL_READ && (uintptr_t)memory % 64 != 0 ? CALL_READ | CALL_UNALIGNED_READ
                                                            : call;
}

static unsigned kinds_of_vector(unsigned call, const struct iovec *iov, int count)
{
    unsigned all = call;

    for (int i = 0; i < count; i++)
        all |= kinds(call, iov[i].iov_base);
    return all;
}

#define NEXT(name)                                                                         \
    static __typeof__(&name) next;                                                         \
    if (next == NULL)                                                                      \
        *(void **)&next = dlsym(RTLD_NEXT, #name)

#define TRANSFER(name, call, pointer, parameters, ...)                                     \
    ssize_t name(int fd, pointer data, size_t length parameters)                           \
    {                                                                                      \
        NEXT(name);                                                                        \
        if (fails(kinds(call, data), fd, &length))                                         \
            return -1;                                                                     \
        return next(fd, data, length __VA_ARGS__);                                         \
    }

#define COMMA ,
TRANSFER(read, CALL_READ, void *, )
TRANSFER(write, CALL_WRITE, const void *, )
TRANSFER(pread, CALL_READ, void *, COMMA off_t offset, COMMA offset)
TRANSFER(pread64, CALL_READ, void *, COMMA off_t offset, COMMA offset)
TRANSFER(pwrite, CALL_WRITE, const void *, COMMA off_t offset, COMMA offset)
TRANSFER(pwrite64, CALL_WRITE, const void *, COMMA off_t offset, COMMA offset)

/* FORTIFY's read: the server of Debian uses it. */
ssize_t __read_chk(int fd, void *data, size_t length, size_t size);
ssize_t __read_chk(int fd, void *data, size_t length, size_t size)
{
    if (length > size)
        abort();
    return read(fd, data, length);
}

#define VECTOR(name, call, parameters, ...)                                                \
    ssize_t name(int fd, const struct iovec *iov, int count parameters)                    \
    {                                                                                      \
        NEXT(name);                                                                        \
        struct iovec parts[IOV_MAX];                                                       \
        size_t length = total(iov, count);                                                 \
        size_t asked = length;                                                             \
        if (fails(kinds_of_vector(call, iov, count), fd, &length))                         \
            return -1;                                                                     \
        if (length == asked)                                                               \
            return next(fd, iov, count __VA_ARGS__);                                       \
        count = cut(iov, count, length, parts);                                            \
        return next(fd, parts, count __VA_ARGS__);                                         \
    }

VECTOR(readv, CALL_READ, )
VECTOR(writev, CALL_WRITE, )
VECTOR(preadv, CALL_READ, COMMA off_t offset, COMMA offset)
VECTOR(preadv64, CALL_READ, COMMA off_t offset, COMMA offset)
VECTOR(pwritev, CALL_WRITE, COMMA off_t offset, COMMA offset)
VECTOR(pwritev64, CALL_WRITE, COMMA off_t offset, COMMA offset)

#define SYNC(name)                                                                         \
    int name(int fd)                                                                       \
    {                                                                                      \
        NEXT(name);                                                                        \
        return fails(CALL_SYNC, fd, NULL) ? -1 : next(fd);                                 \
    }

SYNC(fsync)
SYNC(fdatasync)

#define TRUNCATE(name)                                                                     \
    int name(int fd, off_t length)                                                         \
    {                                                                                      \
        NEXT(name);                                                                        \
        return fails(CALL_TRUNCATE, fd, NULL) ? -1 : next(fd, length);                     \
    }

TRUNCATE(ftruncate)
TRUNCATE(ftruncate64)

/* Returns its error. */
#define ALLOCATE(name)                                                                     \
    int name(int fd, off_t offset, off_t length)                                           \
    {                                                                                      \
        NEXT(name);                                                                        \
        int saved = errno;                                                                 \
        int failed = fails(CALL_ALLOCATE, fd, NULL);                                       \
        int error = errno;                                                                 \
        errno = saved;                                                                     \
        return failed ? error : next(fd, offset, length);                                  \
    }

ALLOCATE(posix_fallocate)
ALLOCATE(posix_fallocate64)

static int open_fails(const char *path)
{
    if (strcmp(path, "faults-off") == 0 || strcmp(path, "faults-on") == 0)
        off = strcmp(path, "faults-off") == 0;
    struct rule *rule = is_planned(CALL_OPEN) ? find(CALL_OPEN, path) : NULL;

    if (rule != NULL)
        errno = rule->error;
    return rule != NULL;
}

#define MODE                                                                               \
    va_list arguments;                                                                     \
    va_start(arguments, flags);                                                            \
    mode_t mode = (flags & (O_CREAT | __O_TMPFILE)) != 0 ? va_arg(arguments, mode_t) : 0;  \
    va_end(arguments)

#define OPEN(name)                                                                         \
    int name(const char *path, int flags, ...)                                             \
    {                                                                                      \
        NEXT(name);                                                                        \
        MODE;                                                                              \
        return open_fails(path) ? -1 : next(path, flags, mode);                            \
    }

#define OPENAT(name)                                                                       \
    int name(int directory, const char *path, int flags, ...)                              \
    {                                                                                      \
        NEXT(name);                                                                        \
        MODE;                                                                              \
        return open_fails(path) ? -1 : next(directory, path, flags, mode);                 \
    }

OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

/* The interposer's way to open a file without following links has no wrapper in the C library. */
long syscall(long number, ...)
{
    long argument[6];
    va_list arguments;

    NEXT(syscall);
    va_start(arguments, number);
    for (int i = 0; i < 6; i++)
        argument[i] = va_arg(arguments, long);
    va_end(arguments);
    if (number == SYS_openat2 && open_fails((const char *)argument[1]))
        return -1;
    return next(number, argument[0], argument[1], argument[2], argument[3], argument[4],
                argument[5]);
}
