/*
 * interpose/init.c - what happens when the interposer is loaded into a program.
 */
#include <stddef.h>

#include "interpose/blocks/counters.h"
#include "interpose/files/reach.h"
#include "interpose/keys/ring.h"
#include "interpose/libc/privacy.h"
#include "interpose/libc/report.h"
#include "interpose/libc/symbols.h"
#include "interpose/policy/combine.h"
#include "interpose/policy/handover.h"
#include "interpose/policy/harm.h"
#include "interpose/policy/keystore.h"
#include "interpose/policy/library.h"
#include "interpose/policy/rewind.h"
#include "interpose/policy/role.h"
#include "interpose/policy/walsender.h"

/*
 * The server must be able to tell base backups and streamed WAL from its own reads, or it
 * would send them decrypted.
 */
static const char *open_keystore(int fd)
{
    const char *problem;

    if (tde_policy_role() == TDE_ROLE_SERVER && !tde_policy_walsender_is_supported())
        return "this server hides symbols that PostgreSQL exports to extensions";
    tde_policy_library_choose();
    problem = tde_keys_open(fd);
    if (problem == NULL) {
        tde_policy_keystore_note(fd);
        tde_policy_harm_note();
    }
    return problem;
}

/* Before the keys are in memory.  Those that only pass them on have a descriptor to hide. */
static const char *begin_privacy(void)
{
    if (tde_policy_role() == TDE_ROLE_SERVER)
        tde_libc_privacy_keep_oom_adjustment();
    return tde_libc_privacy_begin() == 0 ? NULL
                                         : "the kernel does not close this process's memory to "
                                           "others (PR_SET_DUMPABLE)";
}

__attribute__((constructor)) static void start(void)
{
    const char *problem = NULL;
    int fd;

    tde_libc_bind();
    tde_policy_detect_role();
    fd = tde_policy_handover_descriptor();
    if (fd >= 0)
        problem = begin_privacy();
    if (fd >= 0 && problem == NULL && tde_policy_uses_keys())
        problem = open_keystore(fd);
    if (problem != NULL)
        tde_libc_report("could not open the keystore: %s", problem);
    if (tde_keys_are_open() && tde_policy_role() == TDE_ROLE_REWIND)
        tde_policy_rewind_require_same_keys();
    if (tde_policy_role() == TDE_ROLE_COMBINE)
        tde_policy_combine_require_same_keys();
    tde_policy_handover_settle(fd);
    if (!tde_policy_uses_keys())
        return; /* initdb, pg_ctl, sh: they start a server, which must get the keys. */
    if (tde_keys_are_open() && tde_policy_role() == TDE_ROLE_SERVER)
        tde_blocks_counters_create();
    tde_files_reach_create();
}
