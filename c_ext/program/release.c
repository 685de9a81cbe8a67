/*
 * program/release.c - see program/release.h.
 *
 * Providers are Python, and may be libraries of others.  So this program starts `tde`, whose place
 * `tde pg install-bin` has noted, and reads the key from a pipe that nobody else has.
 */
#include "program/release.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "crypto/primitives.h"
#include "program/keys.h"

#define ANSWER_SIZE (TDE_AUTO_OPEN_SIZE + 1) /* the record, and 1 for closed */

static struct {
    uint8_t bytes[ANSWER_SIZE + 1]; /* one more, to notice what is too long */
    size_t length;
} answer;

bool tde_program_has_envelopes(const struct tde_program_settings *settings)
{
    char path[PATH_MAX];
    const struct dirent *entry;
    bool found = false;
    DIR *directory = tde_program_path(path, settings->keystore, "unlock") == 0 ? opendir(path)
                                                                                : NULL;

    if (directory == NULL)
        return false;
    while (!found && (entry = readdir(directory)) != NULL)
        found = entry->d_name[0] != '.';
    closedir(directory);
    return found;
}

/* A caller may have closed 0 to 2, which are for others.  -1 with a closed FD. */
static int above_standard(int fd)
{
    int moved = fd < 0 || fd > STDERR_FILENO ? fd : fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);

    if (moved != fd)
        close(fd);
    return moved;
}

/* The child: `tde` with its output in a pipe, no input, and nothing of the interposer. */
static void run(const struct tde_program_settings *settings, int writer)
{
    char keystore[PATH_MAX];
    char path[PATH_MAX];
    char command[] = "keystore";
    char verb[] = "release";
    char option[] = "--keystore";
    char of_cluster[] = "--cluster";
    char cluster[PATH_MAX] = "";
    char *arguments[] = {path, command, verb, option, keystore, NULL, NULL, NULL};
    int nothing = above_standard(open("/dev/null", O_RDONLY | O_CLOEXEC));

    strcpy(path, settings->tde);
    strcpy(keystore, settings->keystore);
    /* So that the key log knows the cluster and the keys that it uses. */
    if (settings->cluster != NULL && strlen(settings->cluster) < sizeof cluster) {
        strcpy(cluster, settings->cluster);
        arguments[5] = of_cluster;
        arguments[6] = cluster;
    }
    if (nothing < 0 || tde_program_forget_all() != 0 || dup2(nothing, STDIN_FILENO) < 0 ||
        dup2(writer, STDOUT_FILENO) < 0)
        _exit(1);
    execv(path, arguments);
    tde_program_error(settings->program, "Run again: tde pg install-bin", "could not run %s: %s",
                      path, strerror(errno));
    _exit(127);
}

static void read_answer(int reader)
{
    ssize_t count;

    answer.length = 0;
    while (answer.length < sizeof answer.bytes) {
        count = read(reader, answer.bytes + answer.length, sizeof answer.bytes - answer.length);
        if (count < 0 && errno == EINTR)
            continue;
        if (count <= 0)
            break;
        answer.length += (size_t)count;
    }
}

/* How the child has ended; -1 without one. */
static int status_of(const struct tde_program_settings *settings, const int ends[2])
{
    struct sigaction before;
    const struct sigaction usual = {.sa_handler = SIG_DFL};
    int status = -1;
    pid_t child;

    /* Who ignores it, as some that start services do, is not told how a child has ended. */
    sigaction(SIGCHLD, &usual, &before);
    child = fork();
    if (child == 0)
        run(settings, ends[1]);
    close(ends[1]);
    if (child > 0) {
        read_answer(ends[0]);
        while (waitpid(child, &status, 0) < 0 && errno == EINTR)
            ;
    }
    sigaction(SIGCHLD, &before, NULL);
    return status;
}

static bool ask(const struct tde_program_settings *settings)
{
    int ends[2];
    int status = -1;

    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0); /* As before the hand-over, which follows. */
    mlock(&answer, sizeof answer);
    if (pipe2(ends, O_CLOEXEC) != 0)
        return false;
    ends[0] = above_standard(ends[0]);
    ends[1] = above_standard(ends[1]);
    if (ends[0] >= 0 && ends[1] >= 0)
        status = status_of(settings, ends);
    close(ends[0]);
    return status == 0 && answer.length == ANSWER_SIZE;
}

int tde_program_release(const struct tde_program_settings *settings,
                        uint8_t record[TDE_AUTO_OPEN_SIZE], bool *closed)
{
    if (settings->tde[0] != '/') {
        tde_program_error(settings->program, "Run again: tde pg install-bin",
                          "the keystore %s opens by a provider, and nobody knows where tde is",
                          settings->keystore);
        return -1;
    }
    if (answer.length != ANSWER_SIZE && !ask(settings)) {
        tde_program_forget_release();
        tde_program_error(settings->program, "See: tde keystore auto-open status",
                          "the keystore %s does not open by itself", settings->keystore);
        return -1;
    }
    memcpy(record, answer.bytes, TDE_AUTO_OPEN_SIZE);
    *closed = answer.bytes[TDE_AUTO_OPEN_SIZE] != 0;
    return 0;
}

void tde_program_forget_release(void)
{
    tde_crypto_wipe(&answer, sizeof answer);
}
