/*
 * program/create.c - run initdb, then add tde.json and, in postgresql.conf, the guard and settings
 * of the log.
 *
 * The texts lie beside the program, where `tde pg install-bin` has put them.
 */
#include "program/create.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "program/keys.h"

#define TEXT_LIMIT 8192

/* Both initdb and we get Ctrl-C from the terminal; initdb cleans up and tells us its status. */
static int wait_for(pid_t child)
{
    int status;

    signal(SIGINT, SIG_IGN);
    signal(SIGQUIT, SIG_IGN);
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR)
            return 1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int run(const struct tde_program_settings *settings, const char *program, char *const argv[])
{
    pid_t child = fork();

    if (child < 0) {
        tde_program_error(settings->program, NULL, "could not start %s: %s", program,
                          strerror(errno));
        return 1;
    }
    if (child == 0) {
        execv(program, argv);
        tde_program_error(settings->program, NULL, "could not run %s: %s", program,
                          strerror(errno));
        _exit(127);
    }
    tde_program_forget_hand_over(); /* The child has its own descriptor. */
    return wait_for(child);
}

static ssize_t read_text(const char *directory, const char *name, char *to)
{
    char path[PATH_MAX];
    ssize_t length = -1;
    int fd = tde_program_path(path, directory, name) == 0 ? open(path, O_RDONLY | O_CLOEXEC) : -1;

    if (fd < 0)
        return -1;
    length = read(fd, to, TEXT_LIMIT);
    close(fd);
    return length;
}

static bool write_text(const char *directory, const char *name, int flags, mode_t mode,
                       const char *text, ssize_t length)
{
    char path[PATH_MAX];
    int fd = tde_program_path(path, directory, name) == 0
                 ? open(path, O_WRONLY | O_CLOEXEC | O_NOFOLLOW | flags, mode)
                 : -1;
    bool ok = fd >= 0 && write(fd, text, (size_t)length) == length && fsync(fd) == 0;

    if (fd >= 0)
        close(fd);
    return ok;
}

static bool copy(int from, int to)
{
    char buffer[TEXT_LIMIT];
    ssize_t length;

    while ((length = read(from, buffer, sizeof buffer)) > 0)
        if (write(to, buffer, (size_t)length) != length)
            return false;
    return length == 0;
}

/* Put a text in front of a file, which keeps its mode: what stands below wins over it. */
static bool put_before(const char *directory, const char *name, const char *text, ssize_t length)
{
    char path[PATH_MAX];
    char made[PATH_MAX];
    struct stat status;
    bool ok = false;
    int from;
    int to;

    if (tde_program_path(path, directory, name) != 0 ||
        tde_program_path(made, directory, ".postgresql.conf.tmp") != 0)
        return false;
    from = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    to = open(made, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (from >= 0 && to >= 0 && fstat(from, &status) == 0)
        ok = write(to, text, (size_t)length) == length && copy(from, to) &&
             fchmod(to, status.st_mode & 07777) == 0 && fsync(to) == 0 && rename(made, path) == 0;
    if (to >= 0 && !ok)
        unlink(made);
    if (from >= 0)
        close(from);
    if (to >= 0)
        close(to);
    return ok;
}

/* The names become durable with the directory. */
static bool sync_directory(const char *directory)
{
    int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool ok = fd >= 0 && fsync(fd) == 0;

    if (fd >= 0)
        close(fd);
    return ok;
}

/* A cluster with group access has files that the group may read. */
static mode_t mode_of_files(const char *directory)
{
    char path[PATH_MAX];
    struct stat status;

    if (tde_program_path(path, directory, "PG_VERSION") != 0 || stat(path, &status) != 0)
        return 0600;
    return status.st_mode & 0777;
}

static bool mark(const char *from, const char *directory)
{
    char text[TEXT_LIMIT];
    ssize_t length = read_text(from, "tde.json", text);

    if (length <= 0 || !write_text(directory, "tde.json", O_CREAT | O_EXCL,
                                   mode_of_files(directory), text, length))
        return false;
    length = read_text(from, "guard.conf", text);
    if (length <= 0 || !write_text(directory, "postgresql.conf", O_APPEND, 0, text, length))
        return false;
    length = read_text(from, "log.conf", text);
    return length > 0 && put_before(directory, "postgresql.conf", text, length) &&
           sync_directory(directory);
}

int tde_program_create(const struct tde_program_settings *settings, const char *program,
                       char *const argv[], const char *directory)
{
    int status = run(settings, program, argv);

    if (status != 0 || (tde_program_write_keymap(settings, directory) == 0 &&
                        mark(settings->directory, directory)))
        return status;
    tde_program_error(settings->program, "Remove the cluster and create it again.",
                      "the cluster in %s is encrypted but could not be marked so: %s", directory,
                      strerror(errno));
    return 1;
}
