/*
 * policy/process.h - which process of a server this is, and how the server is set.
 *
 * Everything asked here is exported by every postgres since 15, for extensions; a program that
 * lacks it is no process of a server.
 */
#ifndef TDE_INTERPOSE_POLICY_PROCESS_H
#define TDE_INTERPOSE_POLICY_PROCESS_H

#include <stdbool.h>

/* Whether this is the process that PostgreSQL calls KIND, for example "archiver". */
bool tde_policy_process_is(const char *kind);

/* A variable of type bool that every postgres since 15 exports; false where there is none. */
bool tde_policy_process_has_set(const char *name);

bool tde_policy_process_is_postmaster(void);

/* Whether it runs SQL.  All others, of which a later PostgreSQL may have more, run none. */
bool tde_policy_process_runs_sql(void);

/* The value of a setting in this process, or NULL. */
const char *tde_policy_process_setting(const char *name);

/* The data directory of the server. */
const char *tde_policy_process_data_directory(void);

#endif
