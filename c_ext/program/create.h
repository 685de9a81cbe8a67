/*
 * program/create.h - what marks a cluster as encrypted after PostgreSQL's initdb has made it.
 */
#ifndef TDE_PROGRAM_CREATE_H
#define TDE_PROGRAM_CREATE_H

#include "program/settings.h"

/* Run PROGRAM, and mark the cluster in DIRECTORY when it succeeds.  The exit status. */
int tde_program_create(const struct tde_program_settings *settings, const char *program,
                       char *const argv[], const char *directory);

#endif
