/*
 * libc/privacy.c - a process that is not dumpable, and what PostgreSQL loses by that.
 *
 * A database role that may read server files, and every program that the server starts, runs as
 * the server's user.  Without this they read the keys from /proc/<pid>/mem.  The kernel keeps the
 * state across fork and drops it at exec, so it is set in the constructor of every program that
 * is handed keys.
 */
#include "interpose/libc/privacy.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "interpose/libc/report.h"
#include "interpose/libc/symbols.h"

#define OOM_VALUE_SIZE 16

/*
 * A service manager protects the postmaster from the out-of-memory killer and tells it, in
 * PG_OOM_ADJUST_FILE, how its children give the protection up: they write to
 * /proc/self/oom_score_adj, which belongs to root in a process that is not dumpable.  So the
 * postmaster takes the children's value while it forks, and they inherit it.  A child that became
 * dumpable for the moment of its write would be open to whoever waits for that moment.
 */
static struct {
    int fd;
    pid_t postmaster;
    char own[OOM_VALUE_SIZE];
    char of_children[OOM_VALUE_SIZE];
} oom = {.fd = -1};

int tde_libc_privacy_begin(void)
{
    return prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
}

static int write_oom_value(const char *value)
{
    size_t length = strlen(value);

    return tde_libc()->write(oom.fd, value, length) == (ssize_t)length ? 0 : -1;
}

static void before_fork(void)
{
    if (oom.fd >= 0 && getpid() == oom.postmaster)
        write_oom_value(oom.of_children); /* PostgreSQL ignores a failure of this as well. */
}

static void after_fork_in_parent(void)
{
    if (oom.fd < 0 || getpid() != oom.postmaster || write_oom_value(oom.own) == 0)
        return;
    tde_libc_report("the postmaster could not take back its own value of PG_OOM_ADJUST_FILE, %s; "
                    "HINT: write it to /proc/%d/oom_score_adj as root", oom.own, (int)getpid());
    tde_libc()->close(oom.fd);
    oom.fd = -1;
}

static void after_fork_in_child(void)
{
    if (oom.fd >= 0)
        tde_libc()->close(oom.fd);
    oom.fd = -1;
}

static int read_oom_value(const char *path)
{
    int fd = tde_libc()->open(path, O_RDONLY | O_CLOEXEC);
    ssize_t length;

    if (fd < 0)
        return -1;
    length = tde_libc()->read(fd, oom.own, sizeof oom.own - 1);
    tde_libc()->close(fd);
    oom.own[length > 0 ? length : 0] = '\0';
    oom.own[strcspn(oom.own, "\n")] = '\0';
    return length > 0 ? 0 : -1;
}

void tde_libc_privacy_keep_oom_adjustment(void)
{
    static const char directory[] = "/proc/self/";
    const char *path = getenv("PG_OOM_ADJUST_FILE");
    const char *value = getenv("PG_OOM_ADJUST_VALUE");

    if (path == NULL || strncmp(path, directory, sizeof directory - 1) != 0)
        return;
    if (value == NULL)
        value = "0"; /* PostgreSQL's default. */
    if (strlen(value) >= sizeof oom.of_children || read_oom_value(path) != 0)
        return;
    strcpy(oom.of_children, value);
    oom.postmaster = getpid();
    oom.fd = tde_libc()->open(path, O_WRONLY | O_CLOEXEC);
    if (oom.fd >= 0 &&
        pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child) != 0) {
        tde_libc()->close(oom.fd);
        oom.fd = -1;
    }
}
