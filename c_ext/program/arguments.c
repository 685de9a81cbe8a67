/*
 * program/arguments.c - find the data directory and the mode of a program, as its own parser would.
 *
 * The tables follow the programs of PostgreSQL 15 to 19.  An option that is not in a table only
 * matters where a directory may be given without -D; a server whose directory is not found
 * starts without keys, which its configuration refuses.
 */
#include "program/arguments.h"

#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "program/data_directory.h"
#include "program/settings.h"

#define MAX_LONG_OPTIONS 40u

struct program {
    const char *name;
    enum tde_need need;
    const char *short_options;
    bool positional;             /* the directory may stand alone */
    const char *directory_option; /* its long name */
    const char *with_value[24];  /* other long options that take a value */
};

static const struct program programs[] = {
    {"postgres", TDE_NEED_CLUSTER,
     "B:bC:c:D:d:EeFf:h:ijk:lN:nOPp:r:S:sTt:v:W:-:", false, NULL, {NULL}},
    {"postmaster", TDE_NEED_CLUSTER, /* A link to postgres, until 16. */
     "B:bC:c:D:d:EeFf:h:ijk:lN:nOPp:r:S:sTt:v:W:-:", false, NULL, {NULL}},
    {"pg_ctl", TDE_NEED_CLUSTER, "cD:e:l:m:N:o:p:P:sS:t:U:wW", false, "pgdata",
     {"log", "mode", "options", "timeout", NULL}},
    {"initdb", TDE_NEED_CREATE, "A:c:dD:E:gkL:nNsST:U:WX:", true, "pgdata",
     {"encoding", "locale", "lc-collate", "lc-ctype", "lc-monetary", "lc-numeric", "lc-time",
      "lc-messages", "locale-provider", "builtin-locale", "icu-locale", "icu-rules",
      "text-search-config", "auth", "auth-local", "auth-host", "pwfile", "username", "waldir",
      "wal-segsize", "set", "sync-method", NULL}},
    {"pg_checksums", TDE_NEED_CLUSTER, "cD:deNf:Pv", true, "pgdata",
     {"filenode", "sync-method", NULL}},
    /* Debian's postgresql-NN-pg-checksums; most of its options are those of pg_checksums. */
    {"pg_checksums_ext", TDE_NEED_CLUSTER, "abcD:def:NPv", true, "pgdata",
     {"filenode", "max-rate", "sync-method", NULL}},
    {"pg_controldata", TDE_NEED_PRELOAD, NULL, false, NULL, {NULL}},
    {"pg_combinebackup", TDE_NEED_PRELOAD, NULL, false, NULL, {NULL}},
    {"repmgr", TDE_NEED_PRELOAD, NULL, false, NULL, {NULL}},
    {"pg_resetwal", TDE_NEED_CLUSTER, "c:D:e:fl:m:no:O:u:x:", true, "pgdata",
     {"commit-timestamp-ids", "epoch", "multixact-ids", "multixact-offset", "next-oid",
      "next-transaction-id", "next-wal-file", "oldest-transaction-id", "wal-segsize",
      "char-signedness", NULL}},
    {"pg_rewind", TDE_NEED_CLUSTER, "cD:nNPR", false, "target-pgdata",
     {"source-pgdata", "source-server", "config-file", "sync-method", NULL}},
    {"pg_createsubscriber", TDE_NEED_CLUSTER, "ad:D:l:np:P:s:t:TU:v", false, "pgdata",
     {"database", "publisher-port", "publisher-server", "socketdir", "recovery-timeout",
      "subscriber-username", "config-file", "publication", "replication-slot", "subscription",
      "remove", "clean", "logdir", NULL}},
    {"pg_basebackup", TDE_NEED_KEYS, NULL, false, NULL, {NULL}},
    {"pg_receivewal", TDE_NEED_KEYS, NULL, false, NULL, {NULL}},
    {"pg_waldump", TDE_NEED_KEYS, NULL, false, NULL, {NULL}},
    {"pg_verifybackup", TDE_NEED_KEYS, NULL, false, NULL, {NULL}}, /* It starts pg_waldump. */
    {"pg_upgrade", TDE_NEED_UPGRADE, NULL, false, NULL, {NULL}},   /* It starts servers. */
};

static const struct program *find_program(const char *name)
{
    for (size_t i = 0; i < sizeof programs / sizeof programs[0]; i++)
        if (strcmp(programs[i].name, name) == 0)
            return &programs[i];
    return NULL;
}

/* PostgreSQL's programs look for these in the first argument only. */
static bool only_informs(int argc, char *const argv[])
{
    static const char *const options[] = {"--help", "-?", "--version", "-V"};

    for (size_t i = 0; argc > 1 && i < sizeof options / sizeof options[0]; i++)
        if (strcmp(argv[1], options[i]) == 0)
            return true;
    return false;
}

static void list_long_options(const struct program *program, struct option *to)
{
    if (program->directory_option != NULL)
        *to++ = (struct option){program->directory_option, required_argument, NULL, 'D'};
    for (size_t i = 0; program->with_value[i] != NULL; i++)
        *to++ = (struct option){program->with_value[i], required_argument, NULL, 0};
    *to = (struct option){0};
}

/* What pg_ctl was told to do. */
static enum tde_need need_of_mode(const char *mode)
{
    if (mode == NULL)
        return TDE_NEED_NOTHING;
    if (strcmp(mode, "start") == 0 || strcmp(mode, "restart") == 0)
        return TDE_NEED_CLUSTER;
    if (strcmp(mode, "init") == 0 || strcmp(mode, "initdb") == 0)
        return TDE_NEED_CREATE;
    return TDE_NEED_NOTHING;
}

/* initdb can also look at settings or sync a cluster that exists. */
static bool creates_nothing(int argc, char *const argv[])
{
    static const char *const options[] = {"-S", "--sync-only", "-s", "--show"};

    for (int arg = 1; arg < argc; arg++)
        for (size_t i = 0; i < sizeof options / sizeof options[0]; i++)
            if (strcmp(argv[arg], options[i]) == 0)
                return true;
    return false;
}

/* Whether a server program is a stand-in, which hands over the keys of its cluster itself. */
static bool is_stand_in(const char *server)
{
    const char *slash = server == NULL ? NULL : strrchr(server, '/');
    char path[PATH_MAX];
    int length;

    if (slash == NULL)
        return false;
    length = snprintf(path, sizeof path, "%.*s/" TDE_SETTINGS_FILE, (int)(slash - server), server);
    return length > 0 && length < (int)sizeof path && access(path, F_OK) == 0;
}

static void parse(const struct program *program, int argc, char **argv,
                  struct tde_arguments *found)
{
    struct option long_options[MAX_LONG_OPTIONS];
    const char *positional;
    const char *server = NULL;
    int option;

    list_long_options(program, long_options);
    opterr = 0;
    optind = 0; /* Let getopt start anew. */
    while ((option = getopt_long(argc, argv, program->short_options, long_options, NULL)) != -1)
        if (option == 'D')
            found->directory = optarg;
        else if (option == 'p')
            server = optarg;
    positional = optind < argc ? argv[optind] : NULL;
    if (strcmp(program->name, "pg_ctl") == 0)
        found->need = is_stand_in(server) ? TDE_NEED_NOTHING : need_of_mode(positional);
    else if (program->positional && found->directory == NULL && positional != NULL)
        found->directory = positional;
}

struct tde_arguments tde_program_examine_arguments(const char *name, int argc, char *const argv[],
                                                   const char *pgdata)
{
    static char data_directory[PATH_MAX];
    const struct program *program = find_program(name);
    struct tde_arguments found = {.need = TDE_NEED_NOTHING, .is_known = program != NULL};

    if (program == NULL || only_informs(argc, argv))
        return found;
    found.need = program->need;
    found.adds_no_verify = strcmp(name, "pg_basebackup") == 0;
    if (program->short_options != NULL) {
        /* getopt moves arguments; the program must see them in their order. */
        char **copy = calloc((size_t)argc + 1, sizeof *copy);

        if (copy == NULL)
            return found;
        memcpy(copy, argv, (size_t)argc * sizeof *copy);
        parse(program, argc, copy, &found);
        free(copy);
    }
    if (strcmp(name, "initdb") == 0 && creates_nothing(argc, argv))
        found.need = TDE_NEED_NOTHING;
    if (found.directory == NULL && pgdata != NULL && *pgdata != '\0')
        found.directory = pgdata;
    if (found.directory != NULL && program->need == TDE_NEED_CLUSTER &&
        found.need != TDE_NEED_CREATE) {
        const char *given = found.directory;

        found.directory = tde_program_data_directory(given, data_directory);
        /* To stop it, too, pg_ctl asks the server where the data of a configuration is. */
        if (found.directory != given)
            found.need = TDE_NEED_CLUSTER;
    }
    return found;
}
