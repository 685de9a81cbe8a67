/*
 * io_backup.c - base backups, seen from inside PostgreSQL's processes.
 *
 * Everything asked here is exported by every postgres since 15, for extensions.
 */
#include "io_backup.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

/* The head of struct WalSnd in walsender_private.h, the same in PostgreSQL 15 to 18. */
struct wal_sender {
    pid_t pid;
    int state;
};

enum { WALSNDSTATE_BACKUP = 1 };

typedef const char *get_config_option_fn(const char *name, bool missing_ok,
                                         bool restrict_privileged);

bool tde_backup_is_supported(void)
{
    return dlsym(RTLD_DEFAULT, "MyWalSnd") != NULL &&
           dlsym(RTLD_DEFAULT, "GetConfigOption") != NULL;
}

/*
 * A walsender that runs BASE_BACKUP says so in shared memory.  The server opens
 * relations O_RDWR for itself, so O_RDONLY tells the backup's reads from its own.
 */
bool tde_backup_is_sending(int flags)
{
    static struct wal_sender *const *my_wal_sender;

    if ((flags & O_ACCMODE) != O_RDONLY)
        return false;
    if (my_wal_sender == NULL)
        my_wal_sender = dlsym(RTLD_DEFAULT, "MyWalSnd");
    return my_wal_sender != NULL && *my_wal_sender != NULL &&
           (*my_wal_sender)->state == WALSNDSTATE_BACKUP;
}

bool tde_backup_is_wanted_raw(void)
{
    void *symbol = dlsym(RTLD_DEFAULT, "GetConfigOption");
    get_config_option_fn *get_config_option;
    const char *value;

    if (symbol == NULL)
        return false;
    /* ISO C has no cast from an object pointer to a function pointer. */
    memcpy(&get_config_option, &symbol, sizeof get_config_option);
    value = get_config_option(TDE_BACKUP_SETTING, true, false);
    return value != NULL && strcmp(value, "raw") == 0;
}

/* libpq sends PGOPTIONS with each connection; what the operator has in it stays. */
void tde_backup_announce(void)
{
    const char *before = getenv("PGOPTIONS");
    char options[4096];
    int length = snprintf(options, sizeof options, "%s%s-c " TDE_BACKUP_SETTING "=raw",
                          before == NULL ? "" : before, before == NULL ? "" : " ");

    if (length > 0 && (size_t)length < sizeof options)
        setenv("PGOPTIONS", options, 1);
}
