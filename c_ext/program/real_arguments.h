/*
 * program/real_arguments.h - what PostgreSQL's own program is started with.
 */
#ifndef TDE_PROGRAM_REAL_ARGUMENTS_H
#define TDE_PROGRAM_REAL_ARGUMENTS_H

#include <stdbool.h>

#include "program/arguments.h"
#include "program/settings.h"

/*
 * ARGV for the program at PATH: the name under which it looks for its siblings first, and what
 * encryption adds last.  NULL without memory.
 */
char **tde_program_real_arguments(const struct tde_program_settings *settings,
                                  const struct tde_arguments *arguments, char *path, int argc,
                                  char *const argv[], bool has_keys);

#endif
