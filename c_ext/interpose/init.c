/*
 * interpose/init.c - what happens when the interposer is loaded into a program.
 */
#include <limits.h>
#include <stdlib.h>
#include <unistd.h>

#include "format/handover.h"
#include "interpose/blocks/counters.h"
#include "interpose/files/reach.h"
#include "interpose/keys/ring.h"
#include "interpose/libc/report.h"
#include "interpose/libc/symbols.h"
#include "interpose/policy/role.h"
#include "interpose/policy/walsender.h"
#include "launch/preload.h"

static void remove_preload(void)
{
    char *others = tde_launch_other_preloads(getenv("LD_PRELOAD"));

    if (others != NULL && *others != '\0')
        setenv("LD_PRELOAD", others, 1);
    else
        unsetenv("LD_PRELOAD");
    free(others);
}

/* The number of the descriptor that the launcher left for us, or -1. */
static int keys_descriptor(void)
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
 * The server must be able to tell base backups and streamed WAL from its own reads, or it
 * would send them decrypted.
 */
static const char *open_keystore(int fd)
{
    if (tde_policy_role() == TDE_ROLE_SERVER && !tde_policy_walsender_is_supported())
        return "this server hides symbols that PostgreSQL exports to extensions";
    return tde_keys_open(fd);
}

/*
 * Programs that the server or a tool starts (archive_command, COPY FROM PROGRAM) see
 * files as they are, so the environment must not lead them to the keys.
 */
static void forget_handover(int fd)
{
    if (fd >= 0)
        tde_libc()->close(fd);
    unsetenv(TDE_HANDOVER_VARIABLE);
    remove_preload();
}

__attribute__((constructor)) static void start(void)
{
    const char *problem;
    int fd;

    tde_libc_bind();
    tde_policy_detect_role();
    if (tde_policy_role() == TDE_ROLE_NONE || tde_policy_role() == TDE_ROLE_STATE)
        return; /* initdb, pg_ctl, sh: they start a server, which must get the keys. */
    fd = keys_descriptor();
    problem = fd < 0 ? NULL : open_keystore(fd);
    if (problem != NULL)
        tde_libc_report("could not open the keystore: %s", problem);
    if (tde_policy_role() != TDE_ROLE_REWIND) /* pg_rewind starts a server for crash recovery. */
        forget_handover(fd);
    if (tde_keys_are_open() && tde_policy_role() == TDE_ROLE_SERVER)
        tde_blocks_counters_create();
    tde_files_reach_create();
}
