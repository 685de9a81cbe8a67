/*
 * policy/rewind.h - pg_rewind: which directory it changes, and from where it may copy.
 *
 * It copies raw blocks and the source's key map into the target.  That is right only where both
 * have the same key for a tablespace: after a failover two servers may each have made another
 * tablespace with the same OID.
 */
#ifndef TDE_INTERPOSE_POLICY_REWIND_H
#define TDE_INTERPOSE_POLICY_REWIND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Read the directories from the command line. */
void tde_policy_rewind_find(void);

/* The data directory that is rewound, as the command line names it; "" when it names none. */
const char *tde_policy_rewind_target(void);

/* Whether a file lies in the WAL directory of the cluster that is rewound. */
bool tde_policy_rewind_is_in_target(const char *path);

/* Compare the maps of the target and of a source directory; after a report the program ends. */
void tde_policy_rewind_require_same_keys(void);

/* The same with the map of a source server; NULL when it has none. */
void tde_policy_rewind_require_same_keys_as(const uint8_t *map, size_t length);

#endif
