/*
 * calls/libpq.c - connections over which WAL is streamed say that it will be encrypted, and
 * with which keystore and keys, and programs ask whether that is the server's.
 *
 * The walreceiver of a standby, pg_basebackup and pg_receivewal make them with one of two
 * calls of libpq.  Its declarations are repeated here: its header would be needed to build.
 */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "interpose/keys/ring.h"
#include "interpose/libc/report.h"
#include "interpose/libc/symbols.h"
#include "interpose/policy/announced.h"
#include "interpose/policy/keystore.h"
#include "interpose/policy/role.h"
#include "interpose/policy/walsender.h"

typedef struct pg_conn PGconn;
typedef struct pg_result PGresult;

/* Of ConnStatusType and ExecStatusType. */
enum { CONNECTION_OK = 0, PGRES_TUPLES_OK = 2 };

typedef PGconn *connect_fn(const char *const *keywords, const char *const *values,
                           int expand_dbname);

/* PQconninfoOption of libpq-fe.h, which is part of libpq's ABI. */
struct conninfo_option {
    const char *keyword;
    const char *envvar;
    const char *compiled;
    char *value;
    const char *label;
    const char *dispchar;
    int dispsize;
};

PGconn *PQconnectStartParams(const char *const *keywords, const char *const *values,
                             int expand_dbname);
struct conninfo_option *PQconninfo(PGconn *connection);
PGconn *PQconnectdbParams(const char *const *keywords, const char *const *values,
                          int expand_dbname);

static const char *value_of(const char *keyword, const char *const *keywords,
                            const char *const *values)
{
    const char *found = NULL;

    /* As in libpq, the last one that is not empty counts. */
    for (size_t i = 0; keywords[i] != NULL; i++)
        if (strcmp(keywords[i], keyword) == 0 && values[i] != NULL && values[i][0] != '\0')
            found = values[i];
    return found;
}

/* The options of a connection string, to be freed, or NULL. */
static char *options_of(const char *conninfo)
{
    struct conninfo_option *(*parse)(const char *, char **);
    void (*release)(struct conninfo_option *);
    struct conninfo_option *parsed;
    char *options = NULL;

    if (!tde_libc_find(RTLD_NEXT, "PQconninfoParse", &parse) ||
        !tde_libc_find(RTLD_NEXT, "PQconninfoFree", &release))
        return NULL;
    parsed = parse(conninfo, NULL);
    for (const struct conninfo_option *at = parsed; at != NULL && at->keyword != NULL; at++)
        if (strcmp(at->keyword, "options") == 0 && at->value != NULL)
            options = strdup(at->value);
    if (parsed != NULL)
        release(parsed);
    return options;
}

/* What is said now replaces what a connection string or PGOPTIONS says, so that is kept in it. */
static char *announcement(const char *const *keywords, const char *const *values)
{
    const char *given = value_of("options", keywords, values);
    char *found = NULL;
    char *options = NULL;
    const char *ours;

    for (size_t i = 0; given == NULL && keywords[i] != NULL; i++) {
        if (found == NULL && strcmp(keywords[i], "dbname") == 0 && values[i] != NULL)
            found = options_of(values[i]);
    }
    if (given == NULL)
        given = found != NULL ? found : getenv("PGOPTIONS");
    if (given == NULL)
        given = "";
    ours = tde_policy_announced_options();
    /* One of libpq's two calls may come through the other, and so through here again. */
    if (ours != NULL && strstr(given, ours) != NULL)
        options = strdup(given);
    else if (ours == NULL ||
             asprintf(&options, "%s%s%s", given, given[0] == '\0' ? "" : " ", ours) < 0)
        options = NULL;
    free(found);
    return options;
}

/* The walreceiver asks for physical replication; other connections of a server are not ours. */
static bool streams_wal(const char *const *keywords, const char *const *values)
{
    const char *replication;

    if (!tde_keys_are_open())
        return false; /* It could not encrypt anything. */
    if (tde_policy_role() == TDE_ROLE_WAL_RECEIVER)
        return true;
    replication = value_of("replication", keywords, values);
    return tde_policy_role() == TDE_ROLE_SERVER && replication != NULL &&
           strcmp(replication, "true") == 0;
}

static PGconn *announce_and_connect(connect_fn *next, const char *const *keywords,
                                    const char *const *values, int expand_dbname)
{
    char *options = announcement(keywords, values);
    const char **all;
    PGconn *connection = NULL;
    size_t count = 0;

    while (keywords[count] != NULL)
        count++;
    all = calloc(2 * (count + 2), sizeof *all);
    if (options != NULL && all != NULL) {
        const char **all_values = all + count + 2;

        memcpy(all, keywords, count * sizeof *all);
        memcpy(all_values, values, count * sizeof *all);
        all[count] = "options";
        all_values[count] = options;
        connection = next(all, all_values, expand_dbname);
    }
    free(all);
    free(options);
    return connection; /* NULL is libpq's own answer when memory is short. */
}

/*
 * Which keystore the server encrypts with; false when it does not say.  A server without tde
 * answers with an error, and knows of this name only what nobody can have set by accident.
 */
static bool ask_server(PGconn *connection, char keystore[64])
{
    PGresult *(*execute)(PGconn *, const char *);
    int (*status_of)(const PGresult *);
    char *(*value)(const PGresult *, int, int);
    void (*clear)(PGresult *);
    PGresult *result;
    bool told;

    if (!tde_libc_find(RTLD_NEXT, "PQexec", &execute) ||
        !tde_libc_find(RTLD_NEXT, "PQresultStatus", &status_of) ||
        !tde_libc_find(RTLD_NEXT, "PQgetvalue", &value) ||
        !tde_libc_find(RTLD_NEXT, "PQclear", &clear))
        return false;
    result = execute(connection, "SHOW " TDE_WALSENDER_SERVER_SETTING);
    told = status_of(result) == PGRES_TUPLES_OK;
    if (told)
        snprintf(keystore, 64, "%s", value(result, 0, 0));
    clear(result);
    return told;
}

/* What WAL is encrypted with must be what the rest of the cluster is encrypted with. */
static bool is_of_same_keystore(PGconn *connection)
{
    char keystore[64];

    if (!ask_server(connection, keystore)) {
        tde_libc_report("refused to encrypt the WAL of this server with keystore %s: the server "
                        "is not encrypted, or runs an older release of tde; HINT: use "
                        "PostgreSQL's own program for a server without tde, and start an encrypted "
                        "one with this release of tde",
                        tde_policy_keystore_uuid());
        return false;
    }
    if (strcmp(keystore, tde_policy_keystore_uuid()) == 0)
        return true;
    tde_libc_report("refused to encrypt the WAL of this server with keystore %s, because it uses "
                    "keystore %.36s; HINT: name the server's keystore with --keystore or "
                    "TDE_KEYSTORE",
                    tde_policy_keystore_uuid(), keystore);
    return false;
}

/* Whether a connection of this program that was just made is one for WAL. */
static bool will_get_wal(PGconn *connection)
{
    static unsigned made;
    int (*status_of)(const PGconn *);

    if (tde_policy_role() != TDE_ROLE_WAL_RECEIVER || connection == NULL ||
        !tde_libc_find(RTLD_NEXT, "PQstatus", &status_of) ||
        status_of(connection) != CONNECTION_OK)
        return false;
    made++;
    return made > 1 || !tde_policy_takes_backup();
}

/* NULL, at which programs give up, when the server's WAL must not get the keys of this one. */
static PGconn *require_same_keystore(PGconn *connection)
{
    void (*finish)(PGconn *);

    if (!will_get_wal(connection) || is_of_same_keystore(connection))
        return connection;
    if (tde_libc_find(RTLD_NEXT, "PQfinish", &finish))
        finish(connection);
    return NULL;
}

static PGconn *connect_with(const char *name, const char *const *keywords,
                            const char *const *values, int expand_dbname)
{
    connect_fn *next;

    if (!tde_libc_find(RTLD_NEXT, name, &next))
        return NULL;
    return streams_wal(keywords, values)
               ? announce_and_connect(next, keywords, values, expand_dbname)
               : next(keywords, values, expand_dbname);
}

TDE_EXPORT PGconn *PQconnectStartParams(const char *const *keywords, const char *const *values,
                                        int expand_dbname)
{
    return connect_with("PQconnectStartParams", keywords, values, expand_dbname);
}

TDE_EXPORT PGconn *PQconnectdbParams(const char *const *keywords, const char *const *values,
                                     int expand_dbname)
{
    return require_same_keystore(
        connect_with("PQconnectdbParams", keywords, values, expand_dbname));
}

/* Take the claim out of the options of a connection again; nothing is left of an empty value. */
static void take_out(struct conninfo_option *option, const char *text)
{
    char *value = option->value;
    char *at = value == NULL ? NULL : strstr(value, text);

    if (at == NULL)
        return;
    memmove(at, at + strlen(text), strlen(at + strlen(text)) + 1);
    for (size_t length = strlen(value); length > 0 && value[length - 1] == ' '; length--)
        value[length - 1] = '\0';
    if (value[0] == '\0') {
        free(value);
        option->value = NULL;
    }
}

/*
 * pg_basebackup -R writes into the new configuration what its own connection was made with.  Whoever
 * uses that line later, without tde perhaps, must not claim to encrypt.
 */
TDE_EXPORT struct conninfo_option *PQconninfo(PGconn *connection)
{
    struct conninfo_option *(*next)(PGconn *);
    struct conninfo_option *options;
    const char *text;

    if (!tde_libc_find(RTLD_NEXT, "PQconninfo", &next))
        return NULL;
    options = next(connection);
    text = tde_keys_are_open() ? tde_policy_announced_options() : NULL;
    for (struct conninfo_option *at = options; text != NULL && at != NULL && at->keyword != NULL;
         at++)
        if (strcmp(at->keyword, "options") == 0)
            take_out(at, text);
    return options;
}
