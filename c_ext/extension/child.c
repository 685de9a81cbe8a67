/*
 * extension/child.c - see extension/child.h.
 */
#include <postgres.h>

#include <fcntl.h>
#include <limits.h>
#include <miscadmin.h>
#include <signal.h>
#include <port/pg_bswap.h>
#include <storage/latch.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <utils/wait_event.h>

#include "extension/child.h"
#include "extension/messages.h"

#define MOST_ARGUMENTS 16
#define MOST_OUTPUT (16 << 20) /* bytes; a list of 10,000 keys has 2 MB */
#define PATIENCE_AFTER_INTERRUPT 40 /* times 50 ms, for a cancelled child to clean up */

char *tde_extension_command;

struct child {
    pid_t pid; /* 0 when it was waited for */
    int input;
    int output;
};

static void close_pipe(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* No variable of the server's environment steers what the command does, but where it is found. */
static char **environment(void)
{
    static const char *const kept[] = {"PATH", "HOME", "TZ", "LD_LIBRARY_PATH", "OPENSSL_CONF",
                                       "OPENSSL_MODULES"};
    char **made = palloc0((lengthof(kept) + 4) * sizeof *made);
    int used = 0;

    for (size_t i = 0; i < lengthof(kept); i++) {
        const char *value = getenv(kept[i]);

        if (value != NULL)
            made[used++] = psprintf("%s=%s", kept[i], value);
    }
    if (getenv("PATH") == NULL)
        made[used++] = pstrdup("PATH=/usr/local/bin:/usr/bin:/bin");
    made[used++] = pstrdup("LC_ALL=C.UTF-8");
    made[used] = pstrdup("PYTHONNOUSERSITE=1");
    return made;
}

/* Descriptors of the server that were opened without O_CLOEXEC, as versions before 16 do. */
static void close_others(void)
{
#ifdef SYS_close_range
    if (syscall(SYS_close_range, STDERR_FILENO + 1, UINT_MAX, 0) == 0)
        return;
#endif
    for (long fd = STDERR_FILENO + 1; fd < sysconf(_SC_OPEN_MAX); fd++)
        close((int)fd);
}

/* In the child, between fork and exec: nothing here allocates, and no handler of the server runs. */
static void become(char *const *words, char *const *variables, int input, int output)
{
    struct sigaction usual = {.sa_handler = SIG_DFL};
    sigset_t none;

    for (int number = 1; number < NSIG; number++)
        sigaction(number, &usual, NULL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* A backend that is killed leaves nothing behind. */
    if (dup2(input, STDIN_FILENO) < 0 || dup2(output, STDOUT_FILENO) < 0 ||
        dup2(output, STDERR_FILENO) < 0 || chdir("/") != 0)
        _exit(126);
    close_others();
    execve(words[0], words, variables);
    dprintf(STDERR_FILENO, "tde: error: could not run %s: %s\n", words[0], strerror(errno));
    _exit(127);
}

static void start(struct child *child, char *const *words)
{
    char **variables = environment();
    int input[2];
    int output[2];
    sigset_t all;
    sigset_t before;

    if (pipe2(input, O_CLOEXEC) != 0)
        ereport(ERROR, (errcode_for_file_access(), errmsg("could not make a pipe: %m")));
    if (pipe2(output, O_CLOEXEC) != 0) {
        int cause = errno;

        close(input[0]);
        close(input[1]);
        errno = cause;
        ereport(ERROR, (errcode_for_file_access(), errmsg("could not make a pipe: %m")));
    }
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, &before);
    child->pid = fork();
    if (child->pid == 0)
        become(words, variables, input[0], output[1]);
    sigprocmask(SIG_SETMASK, &before, NULL);
    close(input[0]);
    close(output[1]);
    child->input = input[1];
    child->output = output[0];
    if (child->pid < 0) {
        child->pid = 0;
        ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_RESOURCES),
                        errmsg("could not start %s: %m", words[0])));
    }
}

/* Lengths of four bytes and the secrets; far less than a pipe holds, so it never waits. */
static void send_secrets(struct child *child, const struct tde_extension_secret *secrets, int count)
{
    for (int i = 0; i < count; i++) {
        uint32 length = pg_hton32((uint32)secrets[i].length);

        if (write(child->input, &length, sizeof length) != (ssize_t)sizeof length ||
            write(child->input, secrets[i].bytes, secrets[i].length) != (ssize_t)secrets[i].length)
            break; /* It has ended already, and says why. */
    }
    close_pipe(&child->input);
}

static void read_output(struct child *child, StringInfo output)
{
    for (;;) {
        int events = WaitLatchOrSocket(MyLatch, WL_LATCH_SET | WL_SOCKET_READABLE |
                                       WL_EXIT_ON_PM_DEATH, child->output, -1, PG_WAIT_EXTENSION);

        if (events & WL_LATCH_SET) {
            ResetLatch(MyLatch);
            CHECK_FOR_INTERRUPTS();
        }
        if (events & WL_SOCKET_READABLE) {
            char part[4096];
            ssize_t count = read(child->output, part, sizeof part);

            if (count == 0)
                return;
            if (count < 0 && errno != EINTR)
                ereport(ERROR, (errcode_for_file_access(),
                                errmsg("could not read what %s says: %m", tde_extension_command)));
            if (count > 0)
                appendBinaryStringInfo(output, part, (int)count);
            if (output->len > MOST_OUTPUT)
                ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
                                errmsg("%s says too much", tde_extension_command)));
        }
    }
}

static int wait_for(struct child *child)
{
    pid_t pid = child->pid;
    int status = 0;

    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        continue;
    child->pid = 0;
    return status;
}

/* As Ctrl-C in a terminal; what does not heed it is killed, which no command minds. */
static void stop(struct child *child)
{
    close_pipe(&child->input);
    close_pipe(&child->output);
    if (child->pid == 0)
        return;
    kill(child->pid, SIGINT);
    for (int i = 0; i < PATIENCE_AFTER_INTERRUPT; i++) {
        pid_t ended = waitpid(child->pid, NULL, WNOHANG);

        if (ended == child->pid) {
            child->pid = 0;
            return;
        }
        pg_usleep(50000L);
    }
    kill(child->pid, SIGKILL);
    wait_for(child);
}

/* The rest of the line that begins with PREFIX; NULL when there is none. */
static char *line_of(const char *output, const char *prefix)
{
    for (const char *at = output; at != NULL && *at != '\0'; at = strchr(at, '\n')) {
        at += *at == '\n';
        if (strncmp(at, prefix, strlen(prefix)) == 0) {
            at += strlen(prefix);
            return pnstrdup(at, strcspn(at, "\n"));
        }
    }
    return NULL;
}

static void report_failure(const char *verb, int status, const char *output)
{
    const char *message = line_of(output, "tde: error: ");
    const char *hint = line_of(output, "HINT: ");
    int code = ERRCODE_EXTERNAL_ROUTINE_EXCEPTION;

    if (message == NULL && WIFSIGNALED(status))
        message = psprintf("tde was ended by signal %d while it should %s", WTERMSIG(status), verb);
    if (message == NULL) {
        message = psprintf("tde failed with exit status %d while it should %s",
                           WIFEXITED(status) ? WEXITSTATUS(status) : -1, verb);
        hint = psprintf("See whether \"%s --version\" runs as the server's user (setting "
                        "tde.command).", tde_extension_command);
    }
    if (strncmp(message, "wrong passphrase", strlen("wrong passphrase")) == 0)
        code = ERRCODE_INVALID_PASSWORD;
    else if (strstr(message, "passphrase is too short or too long") != NULL)
        code = ERRCODE_INVALID_PARAMETER_VALUE;
    ereport(ERROR, (errcode(code), errmsg("%s", message), hint == NULL ? 0 : errhint("%s", hint)));
}

static void make_words(char **words, const char *verb, const char *const *arguments)
{
    int used = 0;

    words[used++] = tde_extension_command;
    words[used++] = pstrdup("extension");
    words[used++] = pstrdup("act");
    words[used++] = pstrdup(verb);
    words[used++] = pstrdup("-D");
    words[used++] = DataDir;
    for (; *arguments != NULL && used < MOST_ARGUMENTS - 1; arguments++)
        words[used++] = pstrdup(*arguments);
    words[used] = NULL;
}

void tde_extension_run(const char *verb, const char *const *arguments,
                       const struct tde_extension_secret *secrets, int count, StringInfo output)
{
    struct child child = {.pid = 0, .input = -1, .output = -1};
    char *words[MOST_ARGUMENTS];
    volatile int status = 0;

    if (tde_extension_command == NULL || tde_extension_command[0] != '/')
        ereport(ERROR, (errcode(ERRCODE_CONFIG_FILE_ERROR),
                        errmsg("tde.command must be the absolute path of the command tde")));
    make_words(words, verb, arguments);
    PG_TRY();
    {
        start(&child, words);
        send_secrets(&child, secrets, count);
        read_output(&child, output);
        status = wait_for(&child);
        /* A signal to the session is one to its child as well, which may have been the faster one. */
        CHECK_FOR_INTERRUPTS();
    }
    PG_CATCH();
    {
        stop(&child);
        PG_RE_THROW();
    }
    PG_END_TRY();
    close_pipe(&child.output);
    if (status != 0)
        report_failure(verb, status, output->data);
}
