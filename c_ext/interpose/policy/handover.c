/*
 * policy/handover.c - see policy/handover.h, and docs/format.md, sections 8 and 9.
 */
#include "interpose/policy/handover.h"

#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "format/handover.h"
#include "interpose/libc/symbols.h"
#include "interpose/policy/command.h"
#include "interpose/policy/rewind.h"
#include "interpose/policy/role.h"
#include "launch/preload.h"

/* What this program holds for others; the descriptor is -1 when it holds nothing. */
static struct {
    int fd;
    char *preload;
    void *locked;
    size_t size;
} held = {.fd = -1};

int tde_policy_handover_descriptor(void)
{
    const char *text = getenv(TDE_HANDOVER_VARIABLE);
    char *end;
    long number;

    if (text == NULL || *text == '\0')
        return -1;
    number = strtol(text, &end, 10);
    return *end == '\0' && number > STDERR_FILENO && number <= INT_MAX ? (int)number : -1;
}

/*
 * Programs that the server or a tool starts (archive_command, COPY FROM PROGRAM) see files as
 * they are, so the environment must not lead them to the keys.
 */
static void clear_environment(void)
{
    char *others = tde_launch_other_preloads(getenv("LD_PRELOAD"));

    unsetenv(TDE_HANDOVER_VARIABLE);
    if (others != NULL && *others != '\0')
        setenv("LD_PRELOAD", others, 1);
    else
        unsetenv("LD_PRELOAD");
    free(others);
}

/* Pages of a memory file can be swapped out, unless they are mapped and locked. */
static void lock_pages(void)
{
    struct stat status;

    if (fstat(held.fd, &status) != 0 || status.st_size <= 0)
        return;
    held.size = (size_t)status.st_size;
    held.locked = tde_libc()->mmap(NULL, held.size, PROT_READ, MAP_PRIVATE, held.fd, 0);
    if (held.locked == MAP_FAILED)
        held.locked = NULL;
    else
        mlock(held.locked, held.size); /* Without it keys still work, only less protected. */
}

static void let_go(void)
{
    if (held.locked != NULL)
        munmap(held.locked, held.size);
    if (held.fd >= 0)
        tde_libc()->close(held.fd);
    held.locked = NULL;
    held.fd = -1;
    clear_environment();
}

/* pg_ctl forks once, for the shell that becomes the server; what it runs before does not. */
static void after_fork_in_pg_ctl(void)
{
    if (held.fd >= 0)
        let_go();
}

static bool is_pg_ctl(void)
{
    char path[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
    const char *slash;

    path[length > 0 ? length : 0] = '\0';
    slash = strrchr(path, '/');
    return slash != NULL && strcmp(slash + 1, "pg_ctl") == 0;
}

void tde_policy_handover_settle(int fd)
{
    bool rewinds = tde_policy_role() == TDE_ROLE_REWIND;

    held.fd = fd;
    if (tde_policy_uses_keys() && !rewinds) {
        let_go();
        return;
    }
    if (fd < 0) {
        /* Only the state is shown here.  What repmgr starts is loaded with what it needs anew. */
        if (tde_policy_role() == TDE_ROLE_STATE)
            clear_environment();
        return;
    }
    lock_pages();
    if (rewinds) {
        const char *preload = getenv("LD_PRELOAD");

        held.preload = strdup(preload == NULL ? "" : preload);
        tde_libc()->fcntl(fd, F_SETFD, FD_CLOEXEC);
        clear_environment();
    } else if (is_pg_ctl()) {
        pthread_atfork(NULL, after_fork_in_pg_ctl, NULL);
    }
}

/*
 * pg_rewind runs postgres for the setting restore_command and for crash recovery, which need the
 * keys, and with the same functions restore_command itself, which is anybody's program.
 */
bool tde_policy_handover_lend(const char *command)
{
    char number[16];

    if (held.fd < 0 || tde_policy_role() != TDE_ROLE_REWIND || command == NULL ||
        held.preload == NULL ||
        !tde_policy_command_starts_postgres(command, tde_policy_rewind_target()))
        return false;
    snprintf(number, sizeof number, "%d", held.fd);
    setenv(TDE_HANDOVER_VARIABLE, number, 1);
    setenv("LD_PRELOAD", held.preload, 1);
    tde_libc()->fcntl(held.fd, F_SETFD, 0);
    return true;
}

void tde_policy_handover_take_back(void)
{
    tde_libc()->fcntl(held.fd, F_SETFD, FD_CLOEXEC);
    clear_environment();
}
