/*
 * policy/walsender.c - see policy/walsender.h.
 *
 * Everything asked here is exported by every postgres since 15, for extensions.
 */
#include "interpose/policy/walsender.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <sys/types.h>

#include "interpose/keys/ring.h"
#include "interpose/libc/symbols.h"
#include "interpose/policy/keystore.h"
#include "interpose/policy/process.h"

/* The head of struct WalSnd in walsender_private.h, the same in PostgreSQL 15 to 19. */
struct wal_sender {
    pid_t pid;
    int state;
};

/* enum WalSndState: what comes after WALSNDSTATE_CATCHUP streams too. */
enum { WALSNDSTATE_BACKUP = 1, WALSNDSTATE_CATCHUP = 2 };

bool tde_policy_walsender_is_supported(void)
{
    return dlsym(RTLD_DEFAULT, "MyWalSnd") != NULL &&
           dlsym(RTLD_DEFAULT, "am_db_walsender") != NULL &&
           dlsym(RTLD_DEFAULT, "debug_query_string") != NULL &&
           dlsym(RTLD_DEFAULT, "GetConfigOption") != NULL;
}

/* enum GucContext and enum GucSource, the same in PostgreSQL 15 to 19. */
enum { PGC_POSTMASTER = 1, PGC_S_OVERRIDE = 10 };

typedef void set_config_option_fn(const char *name, const char *value, int context, int source);

/* What this walsender says of itself in shared memory, or -1 in any other process. */
static int state(void)
{
    static struct wal_sender *const *my_wal_sender;

    if (my_wal_sender == NULL)
        my_wal_sender = dlsym(RTLD_DEFAULT, "MyWalSnd");
    return my_wal_sender == NULL || *my_wal_sender == NULL ? -1 : (*my_wal_sender)->state;
}

/*
 * The state stays after a backup that succeeded, whatever the connection does next, so the
 * command that runs is asked for as well.  The grammar of replication commands knows this one
 * in capital letters only, and nothing else may begin with it.  No command at all counts as
 * this one: what is sent must not be decrypted.
 */
static bool runs_base_backup(void)
{
    static const char command[] = "BASE_BACKUP";
    const char *const *query = dlsym(RTLD_DEFAULT, "debug_query_string");

    if (query == NULL || *query == NULL)
        return true;
    return strncmp(*query + strspn(*query, " \t\n\r\f\v"), command, sizeof command - 1) == 0;
}

/* The server opens relations O_RDWR for itself, so O_RDONLY tells a backup's reads from its own. */
bool tde_policy_walsender_sends_backup(int flags)
{
    return (flags & O_ACCMODE) == O_RDONLY && state() == WALSNDSTATE_BACKUP && runs_base_backup();
}

/* A walsender with a database decodes WAL: its client gets rows, as from a query, and no WAL. */
static bool is_logical(void)
{
    return tde_policy_process_has_set("am_db_walsender");
}

bool tde_policy_walsender_streams_wal(void)
{
    return state() >= WALSNDSTATE_CATCHUP && !is_logical();
}

bool tde_policy_walsender_is_unsafe(void)
{
    const char *value;

    if (!tde_policy_walsender_streams_wal())
        return false;
    value = tde_policy_process_setting(TDE_WALSENDER_SETTING);
    return value == NULL || strcmp(value, "encrypted") != 0;
}

const char *tde_policy_walsender_foreign_keystore(void)
{
    const char *theirs = tde_policy_walsender_streams_wal()
                             ? tde_policy_process_setting(TDE_WALSENDER_KEYSTORE_SETTING)
                             : NULL;
    const char *proof;

    if (theirs == NULL)
        return NULL;
    if (strcmp(theirs, tde_policy_keystore_uuid()) == 0) {
        proof = tde_policy_process_setting(TDE_WALSENDER_PROOF_SETTING);
        return proof == NULL || strcmp(proof, tde_policy_keystore_proof()) == 0
                   ? NULL
                   : "of the same UUID and with another WAL key";
    }
    /* Anybody may set it to anything, which must not reach the server's log. */
    return strlen(theirs) <= 36 && theirs[strspn(theirs, "0123456789abcdef-")] == '\0'
               ? theirs
               : "of unknown name";
}

/* Its source wins over what files, roles, databases and the client itself may say. */
void tde_policy_walsender_say_keystore(void)
{
    static bool said;
    set_config_option_fn *set_config_option;

    if (said || !tde_keys_are_open() || !tde_policy_process_is_postmaster() ||
        !tde_libc_find(RTLD_DEFAULT, "SetConfigOption", &set_config_option))
        return;
    set_config_option(TDE_WALSENDER_SERVER_SETTING, tde_policy_keystore_uuid(), PGC_POSTMASTER,
                      PGC_S_OVERRIDE);
    said = true;
}
