/*
 * extension/redact.c - see extension/redact.h.
 *
 * A statement whose text names a function that takes a passphrase is hidden as a whole: which part of
 * it is the passphrase only a parser knows, and what is not even SQL never gets that far.  Its text
 * would be in
 *
 *   the server's log     each message passes emit_log_hook, in every format
 *   pg_stat_activity     until the parser has read it; then our text takes its place
 *   pg_stat_statements   which removes constants, but keeps the text of all utility statements, and
 *                        that of a query whose entry was evicted while it ran.  So utility
 *                        statements are refused, and the executor gets another text
 *   auto_explain         as it has the text from the executor, too
 *
 * A message about such a statement may quote a part of it ("unterminated quoted string at or near
 * ..."), so what stays is its format, which PostgreSQL's source has.
 */
#include <postgres.h>

#include <access/htup_details.h>
#include <access/xact.h>
#include <catalog/pg_language_d.h>
#include <catalog/pg_proc.h>
#include <commands/defrem.h>
#include <commands/extension.h>
#include <executor/executor.h>
#include <miscadmin.h>
#include <nodes/nodeFuncs.h>
#include <parser/analyze.h>
#include <parser/parse_func.h>
#include <tcop/pquery.h>
#include <tcop/tcopprot.h>
#include <utils/backend_status.h>
#include <utils/builtins.h>
#include <utils/memutils.h>
#include <utils/portal.h>
#include <utils/syscache.h>

#include "extension/compat.h"
#include "extension/redact.h"
#include "extension/words.h"
#include "extension/messages.h"

#define SHOWN "<a statement with a passphrase for tde>"
#define HIDDEN "..."

/* What stands behind "tde_" or "pgx_" in the names of the functions. */
static const char *const names[] = {"open_keystore", "set_master_key", "set_keystore_passphrase"};

static bool is_installed;
static TimestampTz hidden_statement; /* when the one began that has called such a function */

static emit_log_hook_type next_emit_log;
static post_parse_analyze_hook_type next_post_parse_analyze;
static ExecutorStart_hook_type next_executor_start;

/* Few texts have many underscores, and every statement is looked at. */
static bool part_names(const char *text, size_t length)
{
    const char *end = text + length;
    const char *at = memchr(text, '_', length);

    for (; at != NULL; at = memchr(at + 1, '_', (size_t)(end - at - 1))) {
        if (at - text < 3 ||
            (pg_strncasecmp(at - 3, "tde", 3) != 0 && pg_strncasecmp(at - 3, "pgx", 3) != 0))
            continue;
        for (size_t i = 0; i < lengthof(names); i++)
            if ((size_t)(end - at - 1) >= strlen(names[i]) &&
                pg_strncasecmp(at + 1, names[i], strlen(names[i])) == 0)
                return true;
    }
    return false;
}

static bool names_one(const char *text)
{
    return text != NULL && part_names(text, strlen(text));
}

/* A part of a text, as a statement is of several that were sent together. */
static bool part_names_one(const char *text, int from, int length)
{
    if (text == NULL || from < 0)
        return names_one(text);
    return part_names(text + from, length > 0 ? (size_t)length : strlen(text + from));
}

/*
 * What the client has sent may be thousands of statements, and is asked about for each.  The next
 * message may be at the same address, but begins at another time.
 */
static const char *known_text;
static TimestampTz known_since;

static bool message_names_one(void)
{
    static bool known;

    if (debug_query_string == NULL)
        return false;
    if (known_text != debug_query_string || known_since != GetCurrentStatementStartTimestamp()) {
        known = names_one(debug_query_string);
        known_text = debug_query_string;
        known_since = GetCurrentStatementStartTimestamp();
    }
    return known;
}

/* With the first statement of a message, whatever the clock says. */
static void forget_message(void)
{
    known_text = NULL;
}

static bool source_names_one(const char *text)
{
    return text == debug_query_string ? message_names_one() : names_one(text);
}

/* What is shorter than the text before would leave its end in shared memory, where nobody shows it. */
static void hide_activity(void)
{
    size_t room = (size_t)pgstat_track_activity_query_size;
    char *blank;

    if (MyBackendType != B_BACKEND && MyBackendType != B_WAL_SENDER) /* Which takes SQL, too. */
        return;
    blank = palloc_extended(room, MCXT_ALLOC_NO_OOM);
    if (blank != NULL) {
        memset(blank, ' ', room - 1);
        blank[room - 1] = '\0';
        pgstat_report_activity(STATE_RUNNING, blank);
        pfree(blank);
    }
    pgstat_report_activity(STATE_RUNNING, SHOWN);
}

/* A format of PostgreSQL's source with dots in the place of what it would show. */
static char *without_values(MemoryContext context, const char *format)
{
    char *made = MemoryContextAllocZero(context, strlen(format) * strlen(HIDDEN) + 1);
    char *to = made;

    while (*format != '\0') {
        if (*format != '%') {
            *to++ = *format++;
        } else if (format[1] == '%') {
            *to++ = '%';
            format += 2;
        } else {
            format += strcspn(format, "cdeEfgGiopsuxXm");
            format += *format != '\0';
            to = stpcpy(to, HIDDEN);
        }
    }
    return made;
}

/* How long a statement took is no secret of it. */
static char *with_duration(MemoryContext context, const char *message)
{
    const char *end = strstr(message, " ms");

    if (strncmp(message, "duration: ", strlen("duration: ")) != 0 || end == NULL)
        return NULL;
    return MemoryContextStrdup(context, psprintf("%.*s  " SHOWN, (int)(end + 3 - message),
                                                 message));
}

static char *safe_message(const ErrorData *edata)
{
    char *timed = with_duration(edata->assoc_context, edata->message);

    if (timed != NULL)
        return timed;
    if (edata->message_id == NULL)
        return MemoryContextStrdup(edata->assoc_context, SHOWN);
    if (strchr(edata->message_id, '%') == NULL)
        return edata->message;
    return without_values(edata->assoc_context, edata->message_id);
}

static bool is_about_one(const ErrorData *edata)
{
    return message_names_one() || names_one(edata->message) ||
           names_one(edata->detail) || names_one(edata->detail_log) ||
           names_one(edata->context) || names_one(edata->internalquery) ||
           (hidden_statement != 0 && hidden_statement == GetCurrentStatementStartTimestamp());
}

static void hide(ErrorData *edata)
{
    /* What is ours holds no secret; its context may be a statement. */
    bool is_own = edata->domain != NULL && strcmp(edata->domain, TDE_EXTENSION_DOMAIN) == 0;

    edata->hide_stmt = true;
    edata->hide_ctx = true;
    edata->context = NULL;
    edata->internalquery = NULL;
    if (!is_own && edata->message != NULL) {
        edata->message = safe_message(edata);
        edata->detail = NULL;
        edata->detail_log = NULL;
        edata->hint = NULL;
    }
    if (edata->elevel >= ERROR)
        hide_activity(); /* What cannot be parsed comes no further. */
}

static void emit_log(ErrorData *edata)
{
    if (is_about_one(edata))
        hide(edata);
    tde_extension_words(edata);
    if (next_emit_log != NULL)
        next_emit_log(edata);
}

/* Our own are made without CREATE EXTENSION where a server looks for those in one place only. */
static bool is_in_c(const CreateFunctionStmt *statement)
{
    ListCell *cell;

    foreach (cell, statement->options) {
        DefElem *option = lfirst_node(DefElem, cell);

        if (strcmp(option->defname, "language") == 0)
            return pg_strcasecmp(defGetString(option), "c") == 0;
    }
    return false;
}

/* Whether it is C code of this library: only a superuser can make such a function. */
static bool is_ours(Oid function)
{
    HeapTuple tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
    Datum library;
    bool is_null = true;
    bool found = false;

    if (!HeapTupleIsValid(tuple))
        return false;
    library = SysCacheGetAttr(PROCOID, tuple, Anum_pg_proc_probin, &is_null);
    if (((Form_pg_proc)GETSTRUCT(tuple))->prolang == ClanguageId && !is_null) {
        const char *path = TextDatumGetCString(library);
        const char *name = strrchr(path, '/') == NULL ? path : strrchr(path, '/') + 1;

        found = strcmp(name, "tde") == 0 || strcmp(name, "tde.so") == 0;
    }
    ReleaseSysCache(tuple);
    return found;
}

static bool is_function_of_ours(ObjectType type, Node *object)
{
    if (object == NULL || !IsA(object, ObjectWithArgs) ||
        (type != OBJECT_FUNCTION && type != OBJECT_ROUTINE))
        return false;
    return is_ours(LookupFuncWithArgs(type, (ObjectWithArgs *)object, true));
}

static bool are_functions_of_ours(ObjectType type, const List *objects)
{
    ListCell *cell;

    foreach (cell, objects)
        if (!is_function_of_ours(type, lfirst(cell)))
            return false;
    return objects != NIL;
}

/* Utility statements about the functions themselves, and about nothing else. */
static bool is_about_functions(Node *statement)
{
    switch (nodeTag(statement)) {
    case T_AlterFunctionStmt: {
        AlterFunctionStmt *own = (AlterFunctionStmt *)statement;

        return is_function_of_ours(own->objtype, (Node *)own->func);
    }
    case T_AlterOwnerStmt: {
        AlterOwnerStmt *own = (AlterOwnerStmt *)statement;

        return is_function_of_ours(own->objectType, own->object);
    }
    case T_CommentStmt: {
        CommentStmt *own = (CommentStmt *)statement;

        return is_function_of_ours(own->objtype, own->object);
    }
    case T_DropStmt: {
        DropStmt *own = (DropStmt *)statement;

        return are_functions_of_ours(own->removeType, own->objects);
    }
    case T_GrantStmt: {
        GrantStmt *own = (GrantStmt *)statement;

        return own->targtype == ACL_TARGET_OBJECT &&
               are_functions_of_ours(own->objtype, own->objects);
    }
    case T_CreateFunctionStmt:
        return superuser() && is_in_c((const CreateFunctionStmt *)statement);
    default:
        return false;
    }
}

/* Written in the statement or bound to it: nothing else is run for its value, and hidden with it. */
static bool is_given(Node *argument)
{
    while (IsA(argument, RelabelType))
        argument = (Node *)((RelabelType *)argument)->arg;
    return IsA(argument, Const) || IsA(argument, Param);
}

/* SELECT of one call, and of nothing that somebody might want to hide behind it. */
static bool is_call(const Query *query)
{
    FuncExpr *call;
    ListCell *cell;

    if (query->commandType != CMD_SELECT || query->rtable != NIL || query->cteList != NIL ||
        query->hasSubLinks || list_length(query->targetList) != 1 ||
        query->jointree->quals != NULL || query->havingQual != NULL ||
        query->limitCount != NULL || query->limitOffset != NULL)
        return false;
    call = (FuncExpr *)linitial_node(TargetEntry, query->targetList)->expr;
    if (!IsA(call, FuncExpr) || !is_ours(call->funcid))
        return false;
    foreach (cell, call->args)
        if (!is_given(lfirst(cell)))
            return false;
    return true;
}

/* Its text is hidden, so it must be nothing that anybody needs to see. */
static void require_harmless(const Query *query)
{
    if (creating_extension || is_call(query) ||
        (query->commandType == CMD_UTILITY && is_about_functions(query->utilityStmt)))
        return;
    ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                    errmsg("a function that takes a passphrase is called by SELECT only, and by "
                           "one of nothing else"),
                    errdetail("A statement whose text names such a function, be it in a comment, "
                              "is hidden from logs and audits, so it may do nothing else."),
                    errhint("SELECT tde_open_keystore($1)")));
}

static void post_parse_analyze(ParseState *pstate, Query *query, tde_extension_jumble *jumble)
{
    if (query->stmt_location <= 0)
        forget_message();
    if (message_names_one() ||
        part_names_one(pstate->p_sourcetext, query->stmt_location, query->stmt_len)) {
        if (message_names_one())
            hide_activity();
        require_harmless(query);
    }
    if (next_post_parse_analyze != NULL)
        next_post_parse_analyze(pstate, query, jumble);
}

/* The same length, because positions in the text go with it. */
static void executor_start(QueryDesc *query, int flags)
{
    if (source_names_one(query->sourceText)) {
        size_t length = strlen(query->sourceText);
        char *other = MemoryContextAllocZero(GetMemoryChunkContext(query), length + 1);

        memset(other, '*', length);
        memcpy(other, SHOWN, Min(length, strlen(SHOWN)));
        query->sourceText = other;
        hide_activity(); /* The extended protocol has told it anew. */
    }
    if (next_executor_start != NULL)
        next_executor_start(query, flags);
    else
        standard_ExecutorStart(query, flags);
}

void tde_extension_redact_install(void)
{
    next_emit_log = emit_log_hook;
    emit_log_hook = emit_log;
    next_post_parse_analyze = post_parse_analyze_hook;
    post_parse_analyze_hook = post_parse_analyze;
    next_executor_start = ExecutorStart_hook;
    ExecutorStart_hook = executor_start;
    is_installed = true;
}

void tde_extension_redact_require(const char *name)
{
    hidden_statement = GetCurrentStatementStartTimestamp();
    hide_activity();
    if (!is_installed)
        ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                        errmsg("%s() needs tde in shared_preload_libraries", name),
                        errdetail("Otherwise the passphrase would be where PostgreSQL keeps "
                                  "statements: its log, pg_stat_statements, pg_stat_activity."),
                        errhint("Add it, restart the server, and change the passphrase, because "
                                "this statement may have been logged.")));
    if (!names_one(debug_query_string) || ActivePortal == NULL ||
        ActivePortal->strategy != PORTAL_ONE_SELECT)
        ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                        errmsg("%s() must be called by a SELECT of the client itself", name),
                        errdetail("In a function, EXECUTE or a cursor the passphrase would be in "
                                  "a statement that is logged."),
                        errhint("If it was written into one, change it.")));
    PreventInTransactionBlock(true, psprintf("%s()", name));
}
