/*
 * extension/words.c - see extension/words.h.
 *
 * The interposer can say no more than an errno, ENOKEY ("Required key not available").  The path in
 * the message tells the tablespace, also where another process has read for the session.
 */
#include <postgres.h>

#include <utils/memutils.h>

#include "extension/interposer.h"
#include "extension/words.h"
#include "extension/messages.h"

#define CLOSED "could not encrypt or decrypt data because the keystore is not open"
#define CLOSED_HINT                                                                                \
    "Open the existing keystore, or set the master encryption key to create and open a new keystore"
#define DIRECTORY "pg_tblspc/"

static uint32 tablespace_of(const char *message)
{
    const char *found = message == NULL ? NULL : strstr(message, DIRECTORY);

    return found == NULL ? 0 : (uint32)strtoul(found + strlen(DIRECTORY), NULL, 10);
}

void tde_extension_words(ErrorData *edata)
{
    const struct tde_io_status *status;
    uint32 oid;

    if (edata->elevel < ERROR || edata->saved_errno != ENOKEY)
        return;
    status = tde_extension_interposer();
    oid = tablespace_of(edata->message);
    if (status == NULL || oid == 0)
        return;
    switch (status->withheld(oid)) {
    case TDE_IO_CLOSED:
        edata->detail = edata->message;
        edata->message = MemoryContextStrdup(edata->assoc_context, CLOSED);
        edata->hint = MemoryContextStrdup(edata->assoc_context, CLOSED_HINT);
        break;
    case TDE_IO_LOCKED:
        edata->detail = edata->message;
        edata->message = MemoryContextStrdup(
            edata->assoc_context,
            psprintf("could not encrypt or decrypt data because tablespace %u is locked", oid));
        edata->hint = MemoryContextStrdup(
            edata->assoc_context, psprintf("tde tablespace unlock %u -D DIR", oid));
        break;
    default:
        return;
    }
    edata->sqlerrcode = ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;
}

void tde_extension_require_open(void)
{
    const struct tde_io_status *status = tde_extension_require_interposer();

    if (status->is_closed())
        ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE), errmsg(CLOSED),
                        errhint(CLOSED_HINT)));
}
