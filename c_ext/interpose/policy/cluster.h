/*
 * policy/cluster.h - whose cluster a program with keys is about to change.
 *
 * Keys are given to a program, and the program is told where to work: nothing makes the two
 * belong together.  What is written with keys that a cluster does not have is lost.
 */
#ifndef TDE_INTERPOSE_POLICY_CLUSTER_H
#define TDE_INTERPOSE_POLICY_CLUSTER_H

#include <stdbool.h>

/*
 * Whether the cluster that PATH (relative to DIRFD, as in openat) lies in has the keys of this
 * process.  False with errno, after a report when it is ENOKEY.
 */
bool tde_policy_cluster_is_ours(int dirfd, const char *path);

/*
 * Whether this server may start: one that pg_upgrade starts only as part of an upgrade in which
 * both clusters have its keys.  False with ENOKEY after a report.
 */
bool tde_policy_cluster_may_start(void);

#endif
