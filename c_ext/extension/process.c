/*
 * extension/process.c - see extension/process.h.
 */
#include <postgres.h>

#include <fcntl.h>
#include <limits.h>
#include <miscadmin.h>
#include <signal.h>
#include <storage/latch.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <utils/wait_event.h>

#include "extension/process.h"
#include "extension/messages.h"

#define PATIENCE_AFTER_INTERRUPT 40 /* times 50 ms, for a cancelled program to clean up */
#define BETWEEN_LOOKS 10            /* ms, at a program that has closed its output */

/* What the program has of its descriptors. */
struct ends {
    int input;
    int output;
    int errors;
};

void tde_extension_process_close(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
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
static void become(char *const *words, char *const *variables, const struct ends *ends,
                   pid_t backend)
{
    struct sigaction usual = {.sa_handler = SIG_DFL};
    sigset_t none;

    for (int number = 1; number < NSIG; number++)
        sigaction(number, &usual, NULL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* A backend that is killed leaves nothing behind. */
    if (getppid() != backend || dup2(ends->input, STDIN_FILENO) < 0 ||
        dup2(ends->output, STDOUT_FILENO) < 0 || dup2(ends->errors, STDERR_FILENO) < 0 ||
        chdir("/") != 0)
        _exit(126);
    close_others();
    execve(words[0], words, variables);
    dprintf(STDERR_FILENO, "tde: error: could not run %s: %s\n", words[0], strerror(errno));
    _exit(127);
}

/*
 * Its standard input is a socket, because nobody can open one by way of /proc/<pid>/fd.  Its standard
 * error is a file of memory, because it is read when all has been said: a pipe could be full.
 */
static bool make_ends(struct tde_extension_process *process, struct ends *ends)
{
    const int yes = 1;
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
        return false;
    process->channel = pair[0];
    ends->input = pair[1];
    if (setsockopt(process->channel, SOL_SOCKET, SO_PASSCRED, &yes, sizeof yes) != 0)
        return false;
    if (pipe2(pair, O_CLOEXEC) != 0)
        return false;
    process->output = pair[0];
    ends->output = pair[1];
    ends->errors = process->errors = memfd_create("tde-standard-error", MFD_CLOEXEC);
    return ends->errors >= 0;
}

/* Both the backend and the child make its group, because either may be the first to need it. */
static void fork_into(struct tde_extension_process *process, char *const *words,
                      char *const *variables, const struct ends *ends)
{
    pid_t backend = getpid();
    sigset_t all;
    sigset_t before;

    /* What the child leaves behind when it is killed comes to this process, and is waited for. */
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, &before);
    process->pid = fork();
    if (process->pid == 0)
        become(words, variables, ends, backend);
    if (process->pid > 0)
        setpgid(process->pid, process->pid);
    sigprocmask(SIG_SETMASK, &before, NULL);
}

void tde_extension_process_start(struct tde_extension_process *process, char *const *words,
                                 char *const *variables)
{
    struct ends ends = {.input = -1, .output = -1, .errors = -1};
    int cause;

    if (make_ends(process, &ends))
        fork_into(process, words, variables, &ends);
    cause = errno;
    tde_extension_process_close(&ends.input);
    tde_extension_process_close(&ends.output);
    if (process->pid > 0)
        return;
    process->pid = 0;
    errno = cause;
    ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_RESOURCES),
                    errmsg("could not start %s: %m", words[0])));
}

struct answer {
    pid_t sender; /* by the kernel's word; 0 without one */
    int fd;       /* -1 without one */
};

/* False when there is none because the other end is closed. */
static bool receive(int channel, struct answer *answer)
{
    union {
        struct cmsghdr aligned;
        char bytes[CMSG_SPACE(sizeof(struct ucred)) + CMSG_SPACE(sizeof(int))];
    } control;
    char byte;
    struct iovec part = {.iov_base = &byte, .iov_len = 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes,
                             .msg_controllen = sizeof control.bytes};

    if (recvmsg(channel, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT) <= 0)
        return false;
    for (struct cmsghdr *at = CMSG_FIRSTHDR(&message); at != NULL; at = CMSG_NXTHDR(&message, at)) {
        struct ucred sender;

        if (at->cmsg_level != SOL_SOCKET)
            continue;
        if (at->cmsg_type == SCM_RIGHTS && at->cmsg_len == CMSG_LEN(sizeof answer->fd))
            memcpy(&answer->fd, CMSG_DATA(at), sizeof answer->fd);
        if (at->cmsg_type == SCM_CREDENTIALS) {
            memcpy(&sender, CMSG_DATA(at), sizeof sender);
            answer->sender = sender.pid;
        }
    }
    return true;
}

void tde_extension_process_renew_channel(struct tde_extension_process *process)
{
    struct answer answer = {.sender = 0, .fd = -1};
    bool has_answered = receive(process->channel, &answer);

    tde_extension_process_close(&process->channel);
    process->channel = answer.fd;
    if (has_answered && (answer.sender != process->pid || answer.fd < 0))
        ereport(ERROR, (errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
                        errmsg("not the command itself has asked for what it needs, but process %d",
                               (int)answer.sender),
                        errhint("It runs as the server's user: find out who has started it.")));
}

/* It is not waited for yet, so its number is still its own. */
static bool has_ended(const struct tde_extension_process *process)
{
    siginfo_t found = {0};

    return waitid(P_PID, (id_t)process->pid, &found, WEXITED | WNOHANG | WNOWAIT) != 0
               ? errno != EINTR
               : found.si_pid == process->pid;
}

/* End what is left of the group, wait for each of it, and return the status of the program. */
static int reap(struct tde_extension_process *process)
{
    int status = 0;

    kill(-process->pid, SIGKILL);
    for (;;) {
        int its_status;
        pid_t ended = waitpid(-process->pid, &its_status, 0);

        if (ended == process->pid)
            status = its_status;
        if (ended < 0 && errno != EINTR)
            break;
    }
    process->pid = 0;
    prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0);
    return status;
}

int tde_extension_process_wait(struct tde_extension_process *process)
{
    while (!has_ended(process)) {
        WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, BETWEEN_LOOKS,
                  PG_WAIT_EXTENSION);
        ResetLatch(MyLatch);
        CHECK_FOR_INTERRUPTS();
    }
    return reap(process);
}

/* As Ctrl-C in a terminal; what does not heed it is killed, which no command minds. */
void tde_extension_process_stop(struct tde_extension_process *process)
{
    tde_extension_process_close(&process->channel);
    tde_extension_process_close(&process->output);
    tde_extension_process_close(&process->errors);
    if (process->pid == 0)
        return;
    kill(-process->pid, SIGINT);
    for (int i = 0; i < PATIENCE_AFTER_INTERRUPT && !has_ended(process); i++)
        pg_usleep(50000L);
    reap(process);
}
