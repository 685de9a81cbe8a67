/*
 * driver_other.c - the driver's commands on descriptors, names, lengths, and what is refused.
 */
#include "driver.h"

#include <stdio.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>

/* dup SLOT NEW [VARIANT [NUMBER]] */
static void do_dup(struct run *run)
{
    const char *variant = run->count > 3 ? run->words[3] : "dup";
    int wanted = (int)number(run, 4);
    int fd = file(run, 1);
    int copy;

    if (is(variant, "dup2"))
        copy = dup2(fd, wanted);
    else if (is(variant, "dup3"))
        copy = dup3(fd, wanted, O_CLOEXEC);
    else if (is(variant, "fcntl"))
        copy = fcntl(fd, F_DUPFD, wanted);
    else if (is(variant, "cloexec"))
        copy = fcntl(fd, F_DUPFD_CLOEXEC, wanted);
    else
        copy = dup(fd);
    descriptor(run, (int)number(run, 2), copy);
}

/* COMMAND SLOT; closefrom closes everything behind the slot's descriptor, too. */
static void do_close(struct run *run)
{
    const char *name = run->words[0];
    unsigned int fd = (unsigned int)file(run, 1);

    if (is(name, "closerange"))
        result(run, close_range(fd, fd, 0));
    else if (is(name, "closelater"))
        result(run, close_range(fd, fd, CLOSE_RANGE_CLOEXEC)); /* only at exec */
    else if (is(name, "closefrom"))
        closefrom((int)fd);
    else
        result(run, close((int)fd));
}

/* pipe SLOT SLOT: descriptors that no wrapper sees being made */
static void do_pipe(struct run *run)
{
    int ends[2] = {-1, -1};
    int made = pipe(ends);

    run->slot[number(run, 1) % SLOTS] = ends[0];
    run->slot[number(run, 2) % SLOTS] = ends[1];
    result(run, made);
}

/* COMMAND SLOT LENGTH; truncate PATH LENGTH; fallocate SLOT OFFSET LENGTH */
static void do_length(struct run *run)
{
    const char *name = run->words[0];

    if (is(name, "ftruncate"))
        result(run, ftruncate(file(run, 1), number(run, 2)));
    else if (is(name, "ftruncate64"))
        result(run, ftruncate64(file(run, 1), number(run, 2)));
    else if (is(name, "truncate"))
        result(run, truncate(run->words[1], number(run, 2)));
    else if (is(name, "truncate64"))
        result(run, truncate64(run->words[1], number(run, 2)));
    else if (is(name, "fallocate64"))
        result(run, posix_fallocate64(file(run, 1), number(run, 2), number(run, 3)));
    else if (is(name, "fallocatelinux"))
        result(run, fallocate(file(run, 1), 0, number(run, 2), number(run, 3)));
    else if (is(name, "fallocatekeep"))
        result(run, fallocate(file(run, 1), FALLOC_FL_KEEP_SIZE, number(run, 2), number(run, 3)));
    else
        result(run, posix_fallocate(file(run, 1), number(run, 2), number(run, 3)));
}

/* COMMAND OLD NEW */
static void do_name(struct run *run)
{
    const char *name = run->words[0];
    const char *old = run->words[1];
    const char *new = run->words[2];

    if (is(name, "rename"))
        result(run, rename(old, new));
    else if (is(name, "renameat"))
        result(run, renameat(AT_FDCWD, old, AT_FDCWD, new));
    else if (is(name, "renameat2"))
        result(run, renameat2(AT_FDCWD, old, AT_FDCWD, new, RENAME_NOREPLACE));
    else if (is(name, "link"))
        result(run, link(old, new));
    else if (is(name, "linkat"))
        result(run, linkat(AT_FDCWD, old, AT_FDCWD, new, 0));
    else
        result(run, unlink(old));
}

/* copyrange IN OUT LENGTH; copyat IN OUT IN_OFFSET OUT_OFFSET LENGTH */
static void do_copy(struct run *run)
{
    off_t in_offset = number(run, 3);
    off_t out_offset = number(run, 4);

    if (is(run->words[0], "copyrange"))
        result(run, copy_file_range(file(run, 1), NULL, file(run, 2), NULL,
                                    (size_t)number(run, 3), 0));
    else
        result(run, copy_file_range(file(run, 1), &in_offset, file(run, 2), &out_offset,
                                    (size_t)number(run, 5), 0));
}

/* COMMAND SLOT …: what neither moves nor changes bytes */
static void do_harmless(struct run *run)
{
    const char *name = run->words[0];
    int fd = file(run, 1);
    struct stat status;

    if (is(name, "lseek"))
        result(run, lseek(fd, number(run, 2), (int)number(run, 3)));
    else if (is(name, "access"))
        result(run, fcntl(fd, F_GETFL) & O_ACCMODE);
    else if (is(name, "mode"))
        result(run, fstat(fd, &status) == 0 ? (long)(status.st_mode & 0777) : -1);
    else if (is(name, "size"))
        result(run, fstat(fd, &status) == 0 ? (long)status.st_size : -1);
    else if (is(name, "syncrange"))
        result(run, sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE));
    else if (is(name, "syncdata"))
        result(run, fdatasync(fd));
    else if (is(name, "sync"))
        result(run, fsync(fd));
    else
        result(run, posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED));
}

static void do_stream(struct run *run)
{
    const char *path = run->words[1];
    const char *mode = run->words[2];
    int again = is(run->words[0], "freopen");
    FILE *stream = again ? freopen(path, mode, fopen("/dev/null", "r")) : fopen(path, mode);

    result(run, stream == NULL ? -1 : 0);
    if (stream != NULL)
        fclose(stream);
}

static int splice_out(int fd)
{
    int ends[2];
    ssize_t moved;

    if (pipe(ends) != 0)
        return -2;
    moved = splice(fd, NULL, ends[1], NULL, 100, 0);
    close(ends[0]);
    close(ends[1]);
    return (int)moved;
}

/* What is refused on an encrypted file is not compared with the plain one. */
static void do_refused(struct run *run)
{
    const char *name = run->words[0];
    int fd = file(run, 1);
    void *mapped;

    if (is(name, "mmap")) {
        mapped = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
        result(run, mapped == MAP_FAILED ? -1 : munmap(mapped, 4096));
    } else if (is(name, "mmap64")) {
        mapped = mmap64(NULL, 4096, PROT_READ, MAP_PRIVATE, fd, 0);
        result(run, mapped == MAP_FAILED ? -1 : munmap(mapped, 4096));
    } else if (is(name, "mmapnone")) {
        mapped = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, fd, 0);
        result(run, mapped == MAP_FAILED ? -1 : munmap(mapped, 4096));
    } else if (is(name, "sendfile")) {
        result(run, sendfile(file(run, 2), fd, NULL, 100));
    } else if (is(name, "sendfile64")) {
        result(run, sendfile64(file(run, 2), fd, NULL, 100));
    } else if (is(name, "splice")) {
        result(run, splice_out(fd));
    } else if (is(name, "appending")) {
        result(run, fcntl(fd, F_SETFL, O_APPEND));
    } else {
        result(run, fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096));
    }
}

const struct command other_commands[] = {
    {"dup", do_dup},           {"close", do_close},       {"pipe", do_pipe},
    {"ftruncate", do_length},
    {"truncate", do_length},   {"fallocate", do_length},  {"rename", do_name},
    {"link", do_name},         {"unlink", do_name},       {"copy", do_copy},
    {"lseek", do_harmless},    {"access", do_harmless},   {"mode", do_harmless},
    {"size", do_harmless},     {"sync", do_harmless},     {"advise", do_harmless},
    {"fopen", do_stream},      {"freopen", do_stream},    {"mmap", do_refused},
    {"sendfile", do_refused},  {"splice", do_refused},    {"appending", do_refused},
    {"punch", do_refused},     {NULL, NULL},
};
