/*
 * extension/child.c - see extension/child.h.
 */
#include <postgres.h>

#include <miscadmin.h>
#include <port/pg_bswap.h>
#include <storage/ipc.h>
#include <storage/latch.h>
#include <sys/wait.h>
#include <unistd.h>
#include <utils/wait_event.h>

#include "extension/child.h"
#include "extension/process.h"
#include "extension/messages.h"

#define MOST_ARGUMENTS 16
#define MOST_OUTPUT (16 << 20) /* bytes; a list of 10,000 keys has 2 MB */
#define MOST_ERRORS (64 << 10) /* bytes */
#define PATIENCE 60000         /* ms until the command asks for the secrets: Python starts by then */

char *tde_extension_command;

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

/* Sleep until FD can be read or MILLISECONDS (-1: any number) are over; false when they are. */
static bool wait_readable(int fd, long milliseconds)
{
    int timeout = milliseconds < 0 ? 0 : WL_TIMEOUT;

    for (;;) {
        int events = WaitLatchOrSocket(MyLatch, WL_LATCH_SET | WL_SOCKET_READABLE |
                                       WL_EXIT_ON_PM_DEATH | timeout, fd, milliseconds,
                                       PG_WAIT_EXTENSION);

        if (events & WL_SOCKET_READABLE)
            return true;
        if (events & WL_TIMEOUT)
            return false;
        ResetLatch(MyLatch);
        CHECK_FOR_INTERRUPTS();
    }
}

/*
 * The kernel lets other programs of the server's user look into a program from its exec on, until it
 * forbids that, and what they have opened by then stays open.  So the command makes itself a new
 * memory and a new channel afterwards, and asks; not before has it anything that is worth a look.
 */
static void wait_until_asked(struct tde_extension_process *process)
{
    if (!wait_readable(process->channel, PATIENCE))
        ereport(ERROR, (errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
                        errmsg("%s has not asked for what it needs within %d seconds",
                               tde_extension_command, PATIENCE / 1000),
                        errhint("The setting tde.command must name the command tde, of the release "
                                "that has installed the extension.")));
    tde_extension_process_renew_channel(process);
}

/* Lengths of four bytes and the secrets; if nobody reads them any more, it says why. */
static void send_secrets(struct tde_extension_process *process,
                         const struct tde_extension_secret *secrets, int count)
{
    if (count > 0)
        wait_until_asked(process);
    for (int i = 0; i < count; i++) {
        uint32 length = pg_hton32((uint32)secrets[i].length);

        if (write(process->channel, &length, sizeof length) != (ssize_t)sizeof length ||
            write(process->channel, secrets[i].bytes, secrets[i].length) !=
                (ssize_t)secrets[i].length)
            break;
    }
    tde_extension_process_close(&process->channel);
}

static void read_output(int fd, StringInfo output)
{
    for (;;) {
        char part[4096];
        ssize_t count;

        wait_readable(fd, -1);
        count = read(fd, part, sizeof part);
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

/* What the command has said on its standard error: the beginning of it, if it is long. */
static char *read_errors(int fd)
{
    char *errors = palloc(MOST_ERRORS + 1);
    ssize_t count = pread(fd, errors, MOST_ERRORS, 0);

    errors[count < 0 ? 0 : count] = '\0';
    return errors;
}

/* The rest of the line that begins with PREFIX; NULL when there is none. */
static char *line_of(const char *text, const char *prefix)
{
    for (const char *at = text; at != NULL && *at != '\0'; at = strchr(at, '\n')) {
        at += *at == '\n';
        if (strncmp(at, prefix, strlen(prefix)) == 0) {
            at += strlen(prefix);
            return pnstrdup(at, strcspn(at, "\n"));
        }
    }
    return NULL;
}

static void report_failure(const char *verb, int status, const char *errors)
{
    const char *message = line_of(errors, "tde: error: ");
    const char *hint = line_of(errors, "HINT: ");
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

/* What a command that did its work has said beside it. */
static void report_warnings(char *errors)
{
    char *rest = NULL;

    for (char *line = strtok_r(errors, "\n", &rest); line != NULL;
         line = strtok_r(NULL, "\n", &rest))
        ereport(WARNING, (errmsg("%s", line)));
}

/* Also of a session that is terminated, which never comes back to where it waits. */
static void stop(int code, Datum process)
{
    (void)code;
    tde_extension_process_stop((struct tde_extension_process *)DatumGetPointer(process));
}

void tde_extension_run(const char *verb, const char *const *arguments,
                       const struct tde_extension_secret *secrets, int count, StringInfo output)
{
    struct tde_extension_process process = TDE_EXTENSION_NO_PROCESS;
    char *words[MOST_ARGUMENTS];
    char *volatile errors = NULL;
    volatile int status = 0;

    if (tde_extension_command == NULL || tde_extension_command[0] != '/')
        ereport(ERROR, (errcode(ERRCODE_CONFIG_FILE_ERROR),
                        errmsg("tde.command must be the absolute path of the command tde")));
    make_words(words, verb, arguments);
    PG_ENSURE_ERROR_CLEANUP(stop, PointerGetDatum(&process));
    {
        tde_extension_process_start(&process, words, environment());
        send_secrets(&process, secrets, count);
        read_output(process.output, output);
        status = tde_extension_process_wait(&process);
        errors = read_errors(process.errors);
    }
    PG_END_ENSURE_ERROR_CLEANUP(stop, PointerGetDatum(&process));
    tde_extension_process_stop(&process);
    if (status != 0)
        report_failure(verb, status, errors);
    report_warnings(errors);
}
