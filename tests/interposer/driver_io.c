/*
 * driver_io.c - the driver's commands that open files, read and write.
 */
#include "driver.h"

#include <sys/uio.h>

#define MEMORY (1 << 20)
#define SHIFTED (MEMORY + 4096)

static __thread unsigned char memory[SHIFTED] __attribute__((aligned(4096)));

/* How far from an aligned address reads go to, and how far apart the parts of a vector are. */
static __thread size_t shift;

/* Not a repeating pattern of 16 bytes; seed 0 means zeros. */
static void fill(unsigned char *to, size_t length, unsigned long seed)
{
    uint64_t state = seed * 0x9E3779B97F4A7C15u;

    for (size_t i = 0; i < length; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        to[i] = seed == 0 ? 0 : (unsigned char)(state >> 56);
    }
}

static const uint64_t hash_start = 14695981039346656037u;

static uint64_t hash_on(uint64_t value, const unsigned char *data, size_t length)
{
    for (size_t i = 0; i < length; i++)
        value = (value ^ data[i]) * 1099511628211u;
    return value;
}

static uint64_t hash(const unsigned char *data, size_t length)
{
    return hash_on(hash_start, data, length);
}

/* What a read into the parts of a vector returned; the bytes between the parts do not count. */
static void vector_data(struct run *run, const struct iovec *iov, long length)
{
    uint64_t value = hash_start;

    result(run, length);
    if (length <= 0)
        return;
    for (size_t rest = (size_t)length; rest > 0; iov++) {
        size_t here = iov->iov_len < rest ? iov->iov_len : rest;

        value = hash_on(value, iov->iov_base, here);
        rest -= here;
    }
    fprintf(run->output, "  %016llx\n", (unsigned long long)value);
}

static void data(struct run *run, unsigned char *from, long length)
{
    const struct iovec iov = {from, length > 0 ? (size_t)length : 0};

    vector_data(run, &iov, length);
}

/*
 * What a read of LENGTH bytes must overwrite.  Not inline: a compiler that knew that the
 * length fits would leave FORTIFY's check out.
 */
static __attribute__((noinline)) size_t prepare(unsigned char *to, long length)
{
    if (length < 0 || length > SHIFTED)
        abort();
    memset(to, 0xEE, (size_t)length);
    return (size_t)length;
}

static int flags(const char *text)
{
    static const struct {
        const char *name;
        int flag;
    } known[] = {{"creat", O_CREAT},     {"trunc", O_TRUNC}, {"excl", O_EXCL},
                 {"append", O_APPEND},   {"dsync", O_DSYNC}, {"direct", O_DIRECT},
                 {"cloexec", O_CLOEXEC}};
    int value = strstr(text, "rw") ? O_RDWR : strstr(text, "wo") ? O_WRONLY : O_RDONLY;

    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strstr(text, known[i].name))
            value |= known[i].flag;
    return value;
}

/* Relative to a descriptor of the file's directory. */
static int open_in_directory(const char *path, int how)
{
    char directory[4096];
    char *slash;
    int parent;
    int fd;

    snprintf(directory, sizeof directory, "./%s", path);
    slash = strrchr(directory, '/');
    *slash = '\0';
    parent = open(directory, O_RDONLY | O_DIRECTORY);
    fd = openat(parent, slash + 1, how, 0600);
    close(parent);
    return fd;
}

/* open SLOT PATH FLAGS [VARIANT] */
static void do_open(struct run *run)
{
    const char *path = run->words[2];
    const char *variant = run->count > 4 ? run->words[4] : "open";
    int how = flags(run->words[3]);
    int fd;

    if (is(variant, "open64"))
        fd = open64(path, how, 0600);
    else if (is(variant, "openat"))
        fd = openat(AT_FDCWD, path, how, 0600);
    else if (is(variant, "openat64"))
        fd = openat64(AT_FDCWD, path, how, 0600);
    else if (is(variant, "directory"))
        fd = open_in_directory(path, how);
    else if (is(variant, "creat"))
        fd = creat(path, 0600);
    else if (is(variant, "creat64"))
        fd = creat64(path, 0600);
    else if (is(variant, "nomode"))
        fd = open(path, how & ~O_CREAT); /* __open_2 under FORTIFY */
    else if (is(variant, "nomode64"))
        fd = open64(path, how & ~O_CREAT);
    else if (is(variant, "nomodeat"))
        fd = openat(AT_FDCWD, path, how & ~O_CREAT);
    else if (is(variant, "nomodeat64"))
        fd = openat64(AT_FDCWD, path, how & ~O_CREAT);
    else if (is(variant, "tmpfile"))
        fd = open(path, O_TMPFILE | how, 0640); /* PATH is a directory */
    else
        fd = open(path, how, 0600);
    descriptor(run, (int)number(run, 1), fd);
}

/* shift BYTES: where the memory of the reads that follow begins behind an aligned address */
static void do_shift(struct run *run)
{
    shift = (size_t)number(run, 1) % 64;
}

/* read SLOT LENGTH; pread SLOT LENGTH OFFSET; at most 1 MiB */
static void do_read(struct run *run)
{
    /* An array on the stack: FORTIFY knows its size and checks each read against it. */
    unsigned char to[MEMORY] __attribute__((aligned(4096)));
    unsigned char *shifted = memory + shift;
    const char *name = run->words[0];
    size_t size = prepare(shift > 0 ? shifted : to, number(run, 2));
    off_t offset = number(run, 3);
    int fd = file(run, 1);

    if (shift > 0)
        data(run, shifted,
             is(name, "read") ? read(fd, shifted, size) : pread(fd, shifted, size, offset));
    else if (is(name, "read"))
        data(run, to, read(fd, to, size));
    else if (is(name, "pread64"))
        data(run, to, pread64(fd, to, size, offset));
    else
        data(run, to, pread(fd, to, size, offset));
}

/* write SLOT LENGTH SEED; pwrite SLOT LENGTH SEED OFFSET: the buffer must not change. */
static void do_write(struct run *run)
{
    const char *name = run->words[0];
    size_t size = prepare(memory, number(run, 2));
    off_t offset = number(run, 4);
    int fd = file(run, 1);
    uint64_t before;

    fill(memory, size, (unsigned long)number(run, 3));
    before = hash(memory, size);
    if (is(name, "write"))
        result(run, write(fd, memory, size));
    else if (is(name, "pwrite64"))
        result(run, pwrite64(fd, memory, size, offset));
    else
        result(run, pwrite(fd, memory, size, offset));
    if (hash(memory, size) != before)
        fprintf(run->output, "  the caller's buffer was changed\n");
}

/* COMMAND SLOT OFFSET SEED LENGTH…: parts that follow each other in memory, GAP bytes apart */
static int vector(struct run *run, struct iovec *iov, size_t gap)
{
    int count = run->count - 4;
    size_t total = 0;

    for (int i = 0; i < count; i++) {
        iov[i].iov_base = memory + total;
        iov[i].iov_len = (size_t)number(run, 4 + i);
        total += iov[i].iov_len + gap;
    }
    prepare(memory, (long)total);
    if (strstr(run->words[0], "write"))
        fill(memory, total, (unsigned long)number(run, 3));
    return count;
}

static void do_read_vector(struct run *run)
{
    const char *name = run->words[0];
    struct iovec iov[MAX_WORDS];
    int count = vector(run, iov, shift);
    off_t offset = number(run, 2);
    int fd = file(run, 1);

    if (is(name, "readv"))
        vector_data(run, iov, readv(fd, iov, count));
    else if (is(name, "preadv"))
        vector_data(run, iov, preadv(fd, iov, count, offset));
    else if (is(name, "preadv64"))
        vector_data(run, iov, preadv64(fd, iov, count, offset));
    else if (is(name, "preadv64v2"))
        vector_data(run, iov, preadv64v2(fd, iov, count, offset, 0));
    else
        vector_data(run, iov,
             preadv2(fd, iov, count, offset, is(name, "preadv2nowait") ? RWF_NOWAIT : 0));
}

static void do_write_vector(struct run *run)
{
    const char *name = run->words[0];
    struct iovec iov[MAX_WORDS];
    int count = vector(run, iov, 0);
    off_t offset = number(run, 2);
    int fd = file(run, 1);

    if (is(name, "writev"))
        result(run, writev(fd, iov, count));
    else if (is(name, "pwritev"))
        result(run, pwritev(fd, iov, count, offset));
    else if (is(name, "pwritev64"))
        result(run, pwritev64(fd, iov, count, offset));
    else if (is(name, "pwritev64v2"))
        result(run, pwritev64v2(fd, iov, count, offset, 0));
    else
        result(run, pwritev2(fd, iov, count, offset, is(name, "pwritev2append") ? RWF_APPEND : 0));
}

const struct command io_commands[] = {
    {"open", do_open},           {"preadv", do_read_vector},   {"readv", do_read_vector},
    {"pread", do_read},          {"read", do_read},            {"pwritev", do_write_vector},
    {"writev", do_write_vector}, {"pwrite", do_write},         {"write", do_write},
    {"shift", do_shift},         {NULL, NULL},
};
