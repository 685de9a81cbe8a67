/*
 * extension/tde.c - the SQL extension: what is done when a server loads the library.
 *
 * It is optional, and a server without it recovers everything: it writes no WAL of its own.
 */
#include <postgres.h>

#include <fmgr.h>
#include <miscadmin.h>
#include <utils/guc.h>

#include "extension/child.h"
#include "extension/redact.h"
#include "extension/tablespace.h"
#include "extension/messages.h"

#ifndef TDE_COMMAND
#define TDE_COMMAND "/usr/local/bin/tde" /* `tde extension install` names its own */
#endif

PG_MODULE_MAGIC;

/* Hooks that are set later than this would come after statements that they have not seen. */
void _PG_init(void)
{
    DefineCustomStringVariable("tde.command", "The command tde, which the functions run.",
                               "An absolute path; the server's user must be able to run it.",
                               &tde_extension_command, TDE_COMMAND, PGC_SIGHUP,
                               GUC_SUPERUSER_ONLY, NULL, NULL, NULL);
    /* The prefix is not reserved: `tde pg start` has settings with it for clients to ask. */
    if (!process_shared_preload_libraries_in_progress)
        return;
    tde_extension_redact_install();
    tde_extension_tablespace_install();
}
