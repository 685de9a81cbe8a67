/*
 * policy/withheld.c - see policy/withheld.h.
 */
#include "interpose/policy/withheld.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdint.h>

#include "interpose/keys/withheld.h"
#include "interpose/libc/report.h"
#include "interpose/policy/process.h"

static void report(enum tde_withheld why, uint32_t oid)
{
    if (why == TDE_WITHHELD_CLOSED)
        tde_libc_report("could not encrypt or decrypt data because the keystore is not open; "
                        "HINT: Open the existing keystore, or set the master encryption key to "
                        "create and open a new keystore (tde keystore open -D DIR)");
    else
        tde_libc_report("could not encrypt or decrypt data because tablespace %u is locked; HINT: "
                        "tde tablespace unlock %u -D DIR", oid, oid);
}

static enum tde_withheld withheld(const struct tde_file *file)
{
    return file->id.file_class == TDE_CLASS_RELATION ||
                   file->id.file_class == TDE_CLASS_TEMP_RELATION
               ? tde_keys_withheld_find(file->id.tablespace)
               : TDE_NOT_WITHHELD;
}

bool tde_policy_withheld_concerns(const struct tde_file *file)
{
    return withheld(file) != TDE_NOT_WITHHELD;
}

/*
 * From PostgreSQL 18 on other processes may read for sessions.  They do not for recovery, which asks
 * for each page itself (READ_BUFFERS_SYNCHRONOUSLY).
 */
static bool reads_for_sql(void)
{
    return tde_policy_process_runs_sql() || tde_policy_process_is("io worker");
}

bool tde_policy_withheld_refuses(const struct tde_file *file)
{
    enum tde_withheld why = withheld(file);

    if (why == TDE_NOT_WITHHELD || !reads_for_sql())
        return false;
    report(why, file->id.tablespace);
    errno = ENOKEY;
    return true;
}

/*
 * In a critical section, as of a truncation that WAL has already, an error is a crash of all
 * sessions.  Reads of PostgreSQL 18 are in one as well, but hand their errors back.
 */
bool tde_policy_withheld_refuses_size(const struct tde_file *file)
{
    const volatile uint32_t *critical = dlsym(RTLD_DEFAULT, "CritSectionCount");

    return (critical == NULL || *critical == 0) && tde_policy_withheld_refuses(file);
}
