/*
 * policy/withheld.h - who may not use a tablespace that is locked, or while the keystore is closed.
 */
#ifndef TDE_INTERPOSE_POLICY_WITHHELD_H
#define TDE_INTERPOSE_POLICY_WITHHELD_H

#include <stdbool.h>

#include "interpose/files/table.h"

/*
 * Whether this process may not read FILE: it runs SQL, and the tablespace is withheld.  Then errno
 * is ENOKEY, after a report.
 *
 * Writing is not refused: any session may have to write a page of any table, to make room for its
 * own in shared memory, and must not fail because of somebody else's lock.  Nor is opening, for the
 * same reason.  What a session cannot do without is the size of a table, which the planner asks for,
 * and the pages that are not in memory.
 */
bool tde_policy_withheld_refuses(const struct tde_file *file);

/* Whether FILE is of a tablespace that is withheld from sessions; no system call. */
bool tde_policy_withheld_concerns(const struct tde_file *file);

/* The same as the first for who asks how long it is. */
bool tde_policy_withheld_refuses_size(const struct tde_file *file);

#endif
