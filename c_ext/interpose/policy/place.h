/*
 * policy/place.h - whether a path leads into the cluster: its data directory, the WAL directory
 * and tablespaces, wherever these are and whatever the path calls them.
 */
#ifndef TDE_INTERPOSE_POLICY_PLACE_H
#define TDE_INTERPOSE_POLICY_PLACE_H

#include <limits.h>
#include <stdbool.h>

/*
 * Whether PATH is plainly a name below the working directory, which is the data directory in
 * every process of a server; no call of the kernel is made.
 */
bool tde_policy_place_is_below(int dirfd, const char *path);

/*
 * Where PATH (relative to DIRFD) leads, which need not exist: 1 inside, with NAME relative to the
 * data directory as PostgreSQL would spell it; 0 outside, or nowhere; -1 with errno.
 */
int tde_policy_place_find(int dirfd, const char *path, char name[PATH_MAX]);

#endif
