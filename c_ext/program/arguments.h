/*
 * program/arguments.h - what the command line of a PostgreSQL program says about keys.  Pure.
 */
#ifndef TDE_PROGRAM_ARGUMENTS_H
#define TDE_PROGRAM_ARGUMENTS_H

#include <stdbool.h>

enum tde_need {
    TDE_NEED_NOTHING, /* the program touches no encrypted file: pg_ctl stop, --help */
    TDE_NEED_PRELOAD, /* only the interposer: it shows the true state, or compares key maps */
    TDE_NEED_CLUSTER, /* the keys of the cluster in DIRECTORY, if that one is encrypted */
    TDE_NEED_KEYS,    /* keys in any case: the program works on files outside a cluster */
    TDE_NEED_UPGRADE, /* the keys of two clusters, if both are encrypted (program/upgrade.h) */
    TDE_NEED_CREATE,  /* keys for a cluster that is made in DIRECTORY */
};

struct tde_arguments {
    enum tde_need need;
    const char *directory; /* -D, a positional argument or PGDATA; NULL when there is none */
    bool is_known;         /* a program of PostgreSQL's that the tables have */
    bool adds_no_verify;   /* pg_basebackup needs --no-verify-checksums */
};

/* PGDATA is the variable's value or NULL.  ARGV is not changed. */
struct tde_arguments tde_program_examine_arguments(const char *program, int argc,
                                                   char *const argv[], const char *pgdata);

#endif
