/*
 * extension/tablespace.c - see extension/tablespace.h.
 *
 * A tablespace that is made in SQL has a key that is derived for it, of the cluster's own algorithm.
 * Where that is what is asked for, there is nothing to do.  Otherwise its key must be in the keystore
 * first, and the name of its directory says which (docs/decisions.md).
 */
#include <postgres.h>

#include <access/reloptions.h>
#include <access/xact.h>
#include <catalog/catalog.h>
#include <commands/defrem.h>
#include <commands/tablespace.h>
#include <common/relpath.h>
#include <miscadmin.h>
#include <nodes/parsenodes.h>
#include <tcop/utility.h>
#include <utils/acl.h>

#include "extension/child.h"
#include "extension/interposer.h"
#include "extension/tablespace.h"
#include "extension/words.h"
#include "extension/messages.h"

#define OPTION "tablespace_encryption_algorithm"
#define KEY_DIRECTORY_SIZE strlen("/tde-0123456789abcdef0123456789abcdef")

static ProcessUtility_hook_type next_process_utility;

static DefElem *find_option(List *options)
{
    ListCell *cell;

    foreach (cell, options) {
        DefElem *option = lfirst_node(DefElem, cell);

        if (option->defnamespace == NULL && strcmp(option->defname, OPTION) == 0)
            return option;
    }
    return NULL;
}

/* Bits of the key; 0 for a tablespace in plain text. */
static uint32 wanted_bits(DefElem *option)
{
    const char *value = defGetString(option);

    if (pg_strcasecmp(value, "AES128") == 0)
        return 128;
    if (pg_strcasecmp(value, "AES256") == 0)
        return 256;
    if (pg_strcasecmp(value, "none") == 0)
        return 0;
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                    errmsg("invalid value for parameter \"" OPTION "\": \"%s\"", value),
                    errhint("Available values: AES128, AES256, none.")));
}

/* With the directory that is made in it, it must leave room for the names of files, as PostgreSQL's. */
static bool is_too_long(const char *location)
{
    return strlen(location) + KEY_DIRECTORY_SIZE + 1 + strlen(TABLESPACE_VERSION_DIRECTORY) + 1 +
               OIDCHARS + 1 + OIDCHARS + 1 + FORKNAMECHARS + 1 + OIDCHARS >
           MAXPGPATH;
}

static bool has_control_characters(const char *location)
{
    for (; *location != '\0'; location++)
        if ((unsigned char)*location < ' ' || *location == 0x7f)
            return true;
    return false;
}

/* The command answers with a line, so a line break would make another directory of it. */
static void check_location(const char *location)
{
    if (location == NULL || !is_absolute_path(location))
        ereport(ERROR, (errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
                        errmsg("tablespace location must be an absolute path")));
    if (strchr(location, '\'') != NULL)
        ereport(ERROR, (errcode(ERRCODE_INVALID_NAME),
                        errmsg("tablespace location cannot contain single quotes")));
    if (has_control_characters(location))
        ereport(ERROR, (errcode(ERRCODE_INVALID_NAME),
                        errmsg("tablespace location cannot contain control characters, such as line "
                               "breaks")));
    if (is_too_long(location))
        ereport(ERROR, (errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
                        errmsg("tablespace location \"%s\" is too long", location)));
}

static void check_name(const char *name)
{
    if (!allowSystemTableMods && IsReservedName(name))
        ereport(ERROR, (errcode(ERRCODE_RESERVED_NAME),
                        errmsg("unacceptable tablespace name \"%s\"", name),
                        errdetail("The prefix \"pg_\" is reserved for system tablespaces.")));
    if (OidIsValid(get_tablespace_oid(name, true)))
        ereport(ERROR, (errcode(ERRCODE_DUPLICATE_OBJECT),
                        errmsg("tablespace \"%s\" already exists", name)));
}

/*
 * What PostgreSQL would refuse anyway is refused before a key is made, which would stay: the checks
 * of standard_ProcessUtility and CreateTableSpace, in their order and with their words.
 */
static void refuse_early(const CreateTableSpaceStmt *statement, bool is_top_level)
{
    static const char command[] = "CREATE TABLESPACE";
    Datum options;

    PreventCommandIfReadOnly(command);
    PreventCommandIfParallelMode(command);
    PreventCommandDuringRecovery(command);
    PreventInTransactionBlock(is_top_level, command);
    if (!superuser())
        ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
                        errmsg("permission denied to create tablespace \"%s\"",
                               statement->tablespacename),
                        errhint("Must be superuser to create a tablespace.")));
    if (statement->owner != NULL)
        get_rolespec_oid(statement->owner, false);
    check_location(statement->location);
    check_name(statement->tablespacename);
    options = transformRelOptions((Datum)0, statement->options, NULL, NULL, false, false);
    tablespace_reloptions(options, true);
}

/*
 * The directory in LOCATION that is made for a new key, and named after it.  The key is the
 * server's, which has the master key; the command gets what it stores, which tells it nothing.
 */
static char *prepare(const struct tde_io_status *status, const char *location, uint32 bits)
{
    const char *arguments[] = {"--location", location, NULL};
    uint8_t record[TDE_IO_RECORD_SIZE];
    const struct tde_extension_secret sent = {(const char *)record, sizeof record};
    StringInfoData output;

    if (!status->new_record(bits, record))
        ereport(ERROR, (errcode(ERRCODE_INTERNAL_ERROR), errmsg("could not make a key")));
    initStringInfo(&output);
    tde_extension_run("prepare", arguments, &sent, 1, &output);
    output.data[strcspn(output.data, "\n")] = '\0';
    return output.data;
}

static void create(CreateTableSpaceStmt *statement, DefElem *option, bool is_top_level)
{
    const struct tde_io_status *status = tde_extension_require_interposer();
    uint32 bits = wanted_bits(option);
    uint32 usual = status->usual_bits();

    statement->options = list_delete_ptr(statement->options, option);
    if (bits == 0 && usual != 0)
        ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                        errmsg("the scope of this cluster is cluster: it has no tablespaces in "
                               "plain text"),
                        errhint("Use AES128 or AES256.")));
    if (bits != 0)
        tde_extension_require_open();
    if (bits != 0 && bits == usual)
        return;
    refuse_early(statement, is_top_level);
    statement->location = prepare(status, statement->location, bits);
    ereport(NOTICE, (errmsg("the tablespace is in %s, which is named after its key",
                            statement->location),
                     errhint("Back the keystore up: tde keystore backup. A standby with a keystore "
                             "of its own, or on another machine, needs the key, and the directory, "
                             "before: tde tablespace create --prepare.")));
}

static void process_utility(PlannedStmt *pstmt, const char *text, bool is_read_only,
                            ProcessUtilityContext context, ParamListInfo parameters,
                            QueryEnvironment *environment, DestReceiver *destination,
                            QueryCompletion *completion)
{
    Node *statement = pstmt->utilityStmt;

    if (IsA(statement, CreateTableSpaceStmt) &&
        find_option(((CreateTableSpaceStmt *)statement)->options) != NULL) {
        CreateTableSpaceStmt *own;

        /* Not its macro copyObject, which in 19 needs a compiler that is set to C23. */
        pstmt = copyObjectImpl(pstmt);
        own = (CreateTableSpaceStmt *)pstmt->utilityStmt;
        create(own, find_option(own->options), context == PROCESS_UTILITY_TOPLEVEL);
    } else if (IsA(statement, AlterTableSpaceOptionsStmt) &&
               find_option(((AlterTableSpaceOptionsStmt *)statement)->options) != NULL) {
        ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                        errmsg("a tablespace keeps the key that it began with"),
                        errhint("Stop the server and use \"tde tablespace rekey\", or make another "
                                "tablespace and use \"tde tablespace move\".")));
    }
    if (next_process_utility != NULL)
        next_process_utility(pstmt, text, is_read_only, context, parameters, environment,
                             destination, completion);
    else
        standard_ProcessUtility(pstmt, text, is_read_only, context, parameters, environment,
                                destination, completion);
}

void tde_extension_tablespace_install(void)
{
    next_process_utility = ProcessUtility_hook;
    ProcessUtility_hook = process_utility;
}
