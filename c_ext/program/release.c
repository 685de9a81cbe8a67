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

/* The child: `tde` with its output in a pipe, no input, and nothing of the interposer. */
static void run(const struct tde_program_settings *settings, int writer)
{
    char keystore[PATH_MAX];
    char path[PATH_MAX];
    char command[] = "keystore";
    char verb[] = "release";
    char option[] = "--keystore";
    char *arguments[] = {path, command, verb, option, keystore, NULL};
    int nothing = open("/dev/null", O_RDONLY);

    strcpy(path, settings->tde);
    strcpy(keystore, settings->keystore);
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

static bool ask(const struct tde_program_settings *settings)
{
    int ends[2];
    int status = -1;
    pid_t child;

    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0); /* As before the hand-over, which follows. */
    mlock(&answer, sizeof answer);
    if (pipe2(ends, O_CLOEXEC) != 0)
        return false;
    child = fork();
    if (child == 0)
        run(settings, ends[1]);
    close(ends[1]);
    if (child > 0) {
        read_answer(ends[0]);
        while (waitpid(child, &status, 0) < 0 && errno == EINTR)
            ;
    }
    close(ends[0]);
    return child > 0 && status == 0 && answer.length == ANSWER_SIZE;
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
