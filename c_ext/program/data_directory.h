/*
 * program/data_directory.h - the data directory of a cluster whose configuration lies elsewhere.
 */
#ifndef TDE_PROGRAM_DATA_DIRECTORY_H
#define TDE_PROGRAM_DATA_DIRECTORY_H

#include <limits.h>

/*
 * What -D stands for: DIRECTORY itself if a cluster is there, else what data_directory in its
 * postgresql.conf says, as in Debian's /etc/postgresql/15/main, else DIRECTORY again.  What is
 * found is put into TO.
 */
const char *tde_program_data_directory(const char *directory, char to[PATH_MAX]);

#endif
