/*
 * extension/keystore.c - the functions that open, close and change the keystore.
 */
#include <postgres.h>

#include <fmgr.h>
#include <mb/pg_wchar.h>
#include <miscadmin.h>
#include <utils/builtins.h>

#include "extension/child.h"
#include "extension/interposer.h"
#include "extension/redact.h"
#include "extension/rights.h"
#include "extension/messages.h"

PG_FUNCTION_INFO_V1(tde_open_keystore);
PG_FUNCTION_INFO_V1(tde_close_keystore);
PG_FUNCTION_INFO_V1(tde_set_master_key);
PG_FUNCTION_INFO_V1(tde_set_keystore_passphrase);
PG_FUNCTION_INFO_V1(tde_keystore_keys);

static const char *const no_arguments[] = {NULL};

static void wipe(void *bytes, size_t length)
{
    explicit_bzero(bytes, length);
}

/* A passphrase is bytes; typed on a terminal it is UTF-8, whatever the encoding of the database. */
static struct tde_extension_secret secret_of(FunctionCallInfo fcinfo, int number)
{
    struct tde_extension_secret made;
    text *given;
    char *own;

    if (PG_ARGISNULL(number))
        ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
                        errmsg("the passphrase must not be null")));
    given = PG_GETARG_TEXT_PP(number);
    own = text_to_cstring(given);
    made.bytes = pg_server_to_any(own, (int)strlen(own), PG_UTF8);
    made.length = strlen(made.bytes);
    if (made.bytes != own)
        wipe(own, strlen(own));
    return made;
}

/* The copies of it that are ours; the statement itself is PostgreSQL's (docs/sql.md). */
static void forget(struct tde_extension_secret *secrets, int count)
{
    for (int i = 0; i < count; i++)
        wipe(unconstify(char *, secrets[i].bytes), secrets[i].length);
}

/* What a person reads on a terminal. */
static void tell(StringInfo output)
{
    char *rest = NULL;

    for (char *line = strtok_r(output->data, "\n", &rest); line != NULL;
         line = strtok_r(NULL, "\n", &rest))
        ereport(NOTICE, (errmsg("%s", line)));
}

static void act(FunctionCallInfo fcinfo, const char *verb, const char *done)
{
    struct tde_extension_secret secrets[TDE_EXTENSION_MOST_SECRETS];
    volatile int count = 0;
    StringInfoData output;

    tde_extension_require_rights();
    tde_extension_require_interposer();
    initStringInfo(&output);
    PG_TRY();
    {
        for (; count < PG_NARGS(); count++)
            secrets[count] = secret_of(fcinfo, count);
        tde_extension_run(verb, no_arguments, secrets, count, &output);
    }
    PG_FINALLY();
    {
        forget(secrets, count); /* Also the first, when the second is refused. */
    }
    PG_END_TRY();
    ereport(LOG, (errmsg("role \"%s\" has %s", GetUserNameFromId(GetUserId(), false), done)));
    tell(&output);
}

Datum tde_open_keystore(PG_FUNCTION_ARGS)
{
    tde_extension_redact_require("tde_open_keystore");
    act(fcinfo, "open", "opened the keystore");
    PG_RETURN_VOID();
}

Datum tde_set_master_key(PG_FUNCTION_ARGS)
{
    tde_extension_redact_require("tde_set_master_key");
    act(fcinfo, "set-master-key", "set the master key");
    PG_RETURN_VOID();
}

Datum tde_set_keystore_passphrase(PG_FUNCTION_ARGS)
{
    tde_extension_redact_require("tde_set_keystore_passphrase");
    act(fcinfo, "set-passphrase", "changed the passphrase of the keystore");
    PG_RETURN_VOID();
}

/* No passphrase: it takes nothing but rights to have less.  The key log is written first. */
Datum tde_close_keystore(PG_FUNCTION_ARGS)
{
    const struct tde_io_status *status;
    StringInfoData output;

    tde_extension_require_rights();
    status = tde_extension_require_interposer();
    initStringInfo(&output);
    tde_extension_run("note-closing", no_arguments, NULL, 0, &output);
    status->close();
    ereport(LOG, (errmsg("role \"%s\" has closed the keystore",
                         GetUserNameFromId(GetUserId(), false))));
    PG_RETURN_VOID();
}

/* What the keystore says of its keys in the clear, as JSON; the view tde_keys reads it. */
Datum tde_keystore_keys(PG_FUNCTION_ARGS)
{
    StringInfoData output;
    const char *document;

    (void)fcinfo;
    tde_extension_require_interposer();
    initStringInfo(&output);
    tde_extension_run("keys", no_arguments, NULL, 0, &output);
    document = strchr(output.data, '[');
    PG_RETURN_TEXT_P(cstring_to_text(document == NULL ? "[]" : document));
}
