/*
 * policy/unknown.h - names that say nothing: outside of the cluster, or inside and in no list.
 */
#ifndef TDE_INTERPOSE_POLICY_UNKNOWN_H
#define TDE_INTERPOSE_POLICY_UNKNOWN_H

#include <stdbool.h>

#include "format/identity.h"

/* Whether open(2) FLAGS make a file, or make it new. */
bool tde_policy_unknown_makes(int flags);

/*
 * In a server: the class of PATH, which is FILE_CLASS by its name, where it really leads.  With
 * MAKES a file of class plain must be one that the server writes, or lie outside.  Returns the
 * class, or -1 with errno, after a report when the file is refused.
 */
int tde_policy_unknown_settle(enum tde_file_class file_class, int dirfd, const char *path,
                              bool makes);

#endif
