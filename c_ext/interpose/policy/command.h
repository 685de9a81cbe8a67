/*
 * policy/command.h - the two shell commands with which pg_rewind starts postgres.
 */
#ifndef TDE_INTERPOSE_POLICY_COMMAND_H
#define TDE_INTERPOSE_POLICY_COMMAND_H

#include <stdbool.h>

/*
 * Whether COMMAND does nothing but start the postgres beside this program for the data directory
 * TARGET: to ask it for restore_command, or to end crash recovery there.  Everything else that
 * pg_rewind runs is a restore_command, which is anybody's text and may name postgres too.
 */
bool tde_policy_command_starts_postgres(const char *command, const char *target);

#endif
