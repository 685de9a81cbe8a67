/*
 * driver.c - runs a script of file operations and prints what each returned.
 *
 * The tests compile it under the name "postgres", run the same script with and without
 * the interposer and compare the output line by line: whatever a program can see of a
 * file must not change when the file is encrypted.  How the script is run is chosen at
 * compile time (IN_CONSTRUCTOR, IN_CHILD, IN_THREADS), with or without FORTIFY.
 *
 * A script line is "COMMAND ARGUMENT…"; files are named by slots 0 to 15.
 */
#define _GNU_SOURCE
#define _LARGEFILE64_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

/* What the interposer looks for in a server: no walsender, no settings. */
void *MyWalSnd = NULL;

const char *GetConfigOption(const char *name, int missing_ok, int restrict_privileged);
const char *GetConfigOption(const char *name, int missing_ok, int restrict_privileged)
{
    (void)name;
    (void)missing_ok;
    (void)restrict_privileged;
    return NULL;
}

#define SLOTS 16
#define MAX_VECTOR 64

struct run {
    FILE *script;
    FILE *output;
    int slot[SLOTS];
    char words[MAX_VECTOR][4096];
    int count;
};

/* Not a repeating pattern of 16 bytes; seed 0 means zeros. */
static void fill(unsigned char *to, size_t length, unsigned long seed)
{
    uint64_t state = seed * 0x9E3779B97F4A7C15u;

    for (size_t i = 0; i < length; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        to[i] = seed == 0 ? 0 : (unsigned char)(state >> 56);
    }
}

static uint64_t hash(const unsigned char *data, size_t length)
{
    uint64_t value = 14695981039346656037u;

    for (size_t i = 0; i < length; i++)
        value = (value ^ data[i]) * 1099511628211u;
    return value;
}

static long number(struct run *run, int i)
{
    return i < run->count ? strtol(run->words[i], NULL, 0) : 0;
}

static int file(struct run *run, int i)
{
    return run->slot[number(run, i) % SLOTS];
}

static void result(struct run *run, long value)
{
    if (value < 0)
        fprintf(run->output, "%s: -1 %s\n", run->words[0], strerror(errno));
    else
        fprintf(run->output, "%s: %ld\n", run->words[0], value);
}

static void data(struct run *run, const unsigned char *from, long length)
{
    result(run, length);
    if (length > 0)
        fprintf(run->output, "  %016llx\n", (unsigned long long)hash(from, (size_t)length));
}

static int flags(const char *text)
{
    static const struct {
        const char *name;
        int flag;
    } known[] = {{"creat", O_CREAT}, {"trunc", O_TRUNC}, {"excl", O_EXCL},
                 {"append", O_APPEND}, {"direct", O_DIRECT}, {"tmpfile", O_TMPFILE},
                 {"dsync", O_DSYNC}, {"cloexec", O_CLOEXEC}};
    int value = strstr(text, "rw") ? O_RDWR : strstr(text, "wo") ? O_WRONLY : O_RDONLY;

    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strstr(text, known[i].name))
            value |= known[i].flag;
    return value;
}

/* open SLOT PATH FLAGS [VARIANT] */
static void do_open(struct run *run)
{
    const char *path = run->words[2];
    const char *variant = run->count > 4 ? run->words[4] : "open";
    int how = flags(run->words[3]);
    int fd;

    if (strcmp(variant, "open64") == 0)
        fd = open64(path, how, 0600);
    else if (strcmp(variant, "openat") == 0)
        fd = openat(AT_FDCWD, path, how, 0600);
    else if (strcmp(variant, "openat64") == 0)
        fd = openat64(AT_FDCWD, path, how, 0600);
    else if (strcmp(variant, "creat") == 0)
        fd = creat(path, 0600);
    else if (strcmp(variant, "creat64") == 0)
        fd = creat64(path, 0600);
    else if (strcmp(variant, "nomode") == 0)
        fd = open(path, how & ~O_CREAT); /* __open_2 under FORTIFY */
    else if (strcmp(variant, "nomode64") == 0)
        fd = open64(path, how & ~O_CREAT);
    else if (strcmp(variant, "nomodeat") == 0)
        fd = openat(AT_FDCWD, path, how & ~O_CREAT);
    else
        fd = open(path, how, 0600);
    run->slot[number(run, 1) % SLOTS] = fd;
    result(run, fd < 0 ? fd : 0);
}

/* COMMAND SLOT LENGTH … at most 1 MiB; the memory's size is known to FORTIFY. */
static unsigned char *memory(struct run *run, long length)
{
    static __thread unsigned char block[1 << 20] __attribute__((aligned(4096)));

    (void)run;
    if (length < 0 || (size_t)length > sizeof block)
        abort();
    memset(block, 0xEE, (size_t)length);
    return block;
}

static void do_read(struct run *run)
{
    const char *name = run->words[0];
    long length = number(run, 2);
    unsigned char *to = memory(run, length);
    size_t size = (size_t)length;
    off_t offset = number(run, 3);
    int fd = file(run, 1);

    if (strcmp(name, "read") == 0)
        data(run, to, read(fd, to, size));
    else if (strcmp(name, "pread64") == 0)
        data(run, to, pread64(fd, to, size, offset));
    else
        data(run, to, pread(fd, to, size, offset));
}

/* write SLOT LENGTH SEED; pwrite SLOT LENGTH SEED OFFSET: the buffer must not change. */
static void do_write(struct run *run)
{
    const char *name = run->words[0];
    long length = number(run, 2);
    unsigned char *from = memory(run, length);
    size_t size = (size_t)length;
    off_t offset = number(run, 4);
    int fd = file(run, 1);
    uint64_t before;

    fill(from, size, (unsigned long)number(run, 3));
    before = hash(from, size);
    if (strcmp(name, "write") == 0)
        result(run, write(fd, from, size));
    else if (strcmp(name, "pwrite64") == 0)
        result(run, pwrite64(fd, from, size, offset));
    else
        result(run, pwrite(fd, from, size, offset));
    if (hash(from, size) != before)
        fprintf(run->output, "  the caller's buffer was changed\n");
}

/* COMMAND SLOT OFFSET SEED LENGTH… */
static void do_vector(struct run *run)
{
    const char *name = run->words[0];
    struct iovec iov[MAX_VECTOR];
    int count = run->count - 4;
    off_t offset = number(run, 2);
    int fd = file(run, 1);
    size_t total = 0;
    unsigned char *at;

    for (int i = 0; i < count; i++)
        total += (size_t)number(run, 4 + i);
    at = memory(run, (long)total);
    for (int i = 0; i < count; i++) {
        iov[i].iov_base = at;
        iov[i].iov_len = (size_t)number(run, 4 + i);
        at += iov[i].iov_len;
    }
    at -= total;
    if (strstr(name, "write"))
        fill(at, total, (unsigned long)number(run, 3));
    if (strcmp(name, "readv") == 0)
        data(run, at, readv(fd, iov, count));
    else if (strcmp(name, "preadv") == 0)
        data(run, at, preadv(fd, iov, count, offset));
    else if (strcmp(name, "preadv64") == 0)
        data(run, at, preadv64(fd, iov, count, offset));
    else if (strcmp(name, "preadv2") == 0)
        data(run, at, preadv2(fd, iov, count, offset, 0));
    else if (strcmp(name, "writev") == 0)
        result(run, writev(fd, iov, count));
    else if (strcmp(name, "pwritev64") == 0)
        result(run, pwritev64(fd, iov, count, offset));
    else if (strcmp(name, "pwritev2") == 0)
        result(run, pwritev2(fd, iov, count, offset, 0));
    else
        result(run, pwritev(fd, iov, count, offset));
}

/* dup SLOT NEW [VARIANT [NUMBER]] */
static void do_dup(struct run *run)
{
    const char *variant = run->count > 3 ? run->words[3] : "dup";
    int wanted = (int)number(run, 4);
    int fd = file(run, 1);
    int copy;

    if (strcmp(variant, "dup2") == 0)
        copy = dup2(fd, wanted);
    else if (strcmp(variant, "dup3") == 0)
        copy = dup3(fd, wanted, O_CLOEXEC);
    else if (strcmp(variant, "fcntl") == 0)
        copy = fcntl(fd, F_DUPFD, wanted);
    else if (strcmp(variant, "cloexec") == 0)
        copy = fcntl(fd, F_DUPFD_CLOEXEC, wanted);
    else
        copy = dup(fd);
    run->slot[number(run, 2) % SLOTS] = copy;
    result(run, copy < 0 ? copy : 0);
}

/* What is refused on an encrypted file is not compared with the plain one. */
static void do_refused(struct run *run)
{
    const char *name = run->words[0];
    void *mapped;

    if (strcmp(name, "mmap") == 0) {
        mapped = mmap(NULL, 4096, PROT_READ, MAP_SHARED, file(run, 1), 0);
        result(run, mapped == MAP_FAILED ? -1 : 0);
    } else if (strcmp(name, "sendfile") == 0) {
        result(run, sendfile(file(run, 2), file(run, 1), NULL, 100));
    } else if (strcmp(name, "punch") == 0) {
        result(run, fallocate(file(run, 1), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096));
    } else {
        FILE *stream = fopen(run->words[1], run->words[2]);

        result(run, stream == NULL ? -1 : 0);
        if (stream != NULL)
            fclose(stream);
    }
}

static void do_file(struct run *run)
{
    const char *name = run->words[0];
    off_t in_offset = number(run, 3);
    off_t out_offset = number(run, 4);

    if (strcmp(name, "lseek") == 0)
        result(run, lseek(file(run, 1), number(run, 2), (int)number(run, 3)));
    else if (strcmp(name, "ftruncate") == 0)
        result(run, ftruncate(file(run, 1), number(run, 2)));
    else if (strcmp(name, "truncate") == 0)
        result(run, truncate(run->words[1], number(run, 2)));
    else if (strcmp(name, "fallocate") == 0)
        result(run, posix_fallocate(file(run, 1), number(run, 2), number(run, 3)));
    else if (strcmp(name, "rename") == 0)
        result(run, rename(run->words[1], run->words[2]));
    else if (strcmp(name, "link") == 0)
        result(run, link(run->words[1], run->words[2]));
    else if (strcmp(name, "unlink") == 0)
        result(run, unlink(run->words[1]));
    else if (strcmp(name, "copyrange") == 0)
        result(run, copy_file_range(file(run, 1), NULL, file(run, 2), NULL,
                                    (size_t)number(run, 3), 0));
    else if (strcmp(name, "copyat") == 0)
        result(run, copy_file_range(file(run, 1), &in_offset, file(run, 2), &out_offset,
                                    (size_t)number(run, 5), 0));
    else if (strcmp(name, "closerange") == 0)
        result(run, close_range((unsigned)file(run, 1), (unsigned)file(run, 1), 0));
    else if (strcmp(name, "access") == 0)
        result(run, fcntl(file(run, 1), F_GETFL) & O_ACCMODE);
    else
        result(run, close(file(run, 1)));
}

static void execute(struct run *run)
{
    static const struct {
        const char *prefix;
        void (*run)(struct run *);
    } commands[] = {{"open", do_open}, {"preadv", do_vector}, {"pwritev", do_vector},
                    {"readv", do_vector}, {"writev", do_vector}, {"pread", do_read},
                    {"read", do_read}, {"pwrite", do_write}, {"write", do_write},
                    {"dup", do_dup}, {"mmap", do_refused}, {"sendfile", do_refused},
                    {"punch", do_refused}, {"fopen", do_refused}, {"", do_file}};

    for (size_t i = 0;; i++)
        if (strncmp(run->words[0], commands[i].prefix, strlen(commands[i].prefix)) == 0) {
            commands[i].run(run);
            return;
        }
}

static int run_script(const char *path, FILE *output)
{
    struct run *run = calloc(1, sizeof *run);
    char line[65536];

    run->script = fopen(path, "r");
    run->output = output;
    if (run->script == NULL)
        return 1;
    while (fgets(line, sizeof line, run->script) != NULL) {
        char *state = NULL;

        run->count = 0;
        for (char *word = strtok_r(line, " \n", &state); word != NULL && run->count < MAX_VECTOR;
             word = strtok_r(NULL, " \n", &state))
            snprintf(run->words[run->count++], sizeof run->words[0], "%s", word);
        if (run->count > 0)
            execute(run);
    }
    fclose(run->script);
    free(run);
    fflush(output);
    return 0;
}

/* Threads run scripts of their own: SCRIPT.0, SCRIPT.1, … into OUTPUT.0, OUTPUT.1, … */
static void *thread(void *path)
{
    char name[4096];
    FILE *output;

    snprintf(name, sizeof name, "%s.out", (const char *)path);
    output = fopen(name, "w");
    run_script(path, output);
    fclose(output);
    return NULL;
}

static int run_threads(int count, char **paths)
{
    pthread_t threads[16];

    for (int i = 0; i < count; i++)
        pthread_create(&threads[i], NULL, thread, paths[i]);
    for (int i = 0; i < count; i++)
        pthread_join(threads[i], NULL);
    return 0;
}

#ifdef IN_CONSTRUCTOR
__attribute__((constructor)) static void early(int argc, char **argv)
{
    exit(argc > 1 ? run_script(argv[1], stdout) : 2);
}
#endif

int main(int argc, char **argv)
{
    if (argc < 2)
        return 2;
#ifdef IN_CHILD
    pid_t child = fork();
    int status;

    if (child == 0) {
        int code = run_script(argv[1], stdout);
        fflush(stdout);
        _exit(code);
    }
    return waitpid(child, &status, 0) == child && WIFEXITED(status) ? WEXITSTATUS(status) : 3;
#elif defined(IN_THREADS)
    return run_threads(argc - 1, argv + 1);
#else
    (void)run_threads;
    return run_script(argv[1], stdout);
#endif
}
