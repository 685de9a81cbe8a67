/*
 * calls/rewind.c - pg_rewind's connection to its source, whose key map is compared first.
 *
 * libpq's declarations are repeated here: its header would be needed to build.
 */
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "interpose/keys/ring.h"
#include "interpose/libc/report.h"
#include "interpose/libc/symbols.h"
#include "interpose/policy/rewind.h"
#include "interpose/policy/role.h"

typedef struct pg_conn PGconn;
typedef struct pg_result PGresult;

enum { CONNECTION_OK = 0, PGRES_TUPLES_OK = 2 };

PGconn *PQconnectdb(const char *conninfo);

/* Of all ways to read a file this is the one that a role for pg_rewind has been granted. */
static const char query[] =
    "SELECT pg_catalog.encode("
    "pg_catalog.pg_read_binary_file('tde.keymap', 0, 67108864, true), 'hex')";

struct libpq {
    int (*status)(const PGconn *);
    PGresult *(*exec)(PGconn *, const char *);
    int (*result_status)(const PGresult *);
    int (*is_null)(const PGresult *, int, int);
    char *(*value)(const PGresult *, int, int);
    char *(*error)(const PGconn *);
    void (*clear)(PGresult *);
};

static bool bind(const char *name, void *function)
{
    return tde_libc_find(RTLD_DEFAULT, name, function);
}

static bool bind_all(struct libpq *libpq)
{
    return bind("PQstatus", &libpq->status) && bind("PQexec", &libpq->exec) &&
           bind("PQresultStatus", &libpq->result_status) &&
           bind("PQgetisnull", &libpq->is_null) && bind("PQgetvalue", &libpq->value) &&
           bind("PQerrorMessage", &libpq->error) && bind("PQclear", &libpq->clear);
}

static uint8_t digit(char c)
{
    return (uint8_t)(c >= 'a' ? c - 'a' + 10 : c - '0');
}

static void compare(const char *hex)
{
    size_t length = strlen(hex) / 2;
    uint8_t *map = malloc(length + 1);

    if (map == NULL) {
        tde_libc_report("there is no memory for the key map of the source server");
        exit(1);
    }
    for (size_t i = 0; i < length; i++)
        map[i] = (uint8_t)(digit(hex[2 * i]) << 4 | digit(hex[2 * i + 1]));
    tde_policy_rewind_require_same_keys_as(map, length);
    free(map);
}

static void compare_with(const struct libpq *libpq, PGconn *connection)
{
    PGresult *result = libpq->exec(connection, query);

    if (libpq->result_status(result) != PGRES_TUPLES_OK) {
        tde_libc_report("could not read the key map of the source server: %s",
                        libpq->error(connection));
        exit(1);
    }
    if (libpq->is_null(result, 0, 0))
        tde_policy_rewind_require_same_keys_as(NULL, 0);
    else
        compare(libpq->value(result, 0, 0));
    libpq->clear(result);
}

TDE_EXPORT PGconn *PQconnectdb(const char *conninfo)
{
    PGconn *(*next)(const char *);
    struct libpq libpq;
    PGconn *connection;

    if (!tde_libc_find(RTLD_NEXT, "PQconnectdb", &next))
        return NULL;
    connection = next(conninfo);
    if (tde_policy_role() == TDE_ROLE_REWIND && tde_keys_are_open() && connection != NULL &&
        bind_all(&libpq) && libpq.status(connection) == CONNECTION_OK)
        compare_with(&libpq, connection);
    return connection;
}
