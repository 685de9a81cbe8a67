/*
 * policy/handover.h - to whom this program passes the keys on, and how soon it lets go of them.
 */
#ifndef TDE_INTERPOSE_POLICY_HANDOVER_H
#define TDE_INTERPOSE_POLICY_HANDOVER_H

#include <stdbool.h>

/* The descriptor that the launcher left for this program, or -1. */
int tde_policy_handover_descriptor(void);

/*
 * Decide, at the start of a program and after it has read the keys: most forget the hand-over,
 * some keep it for the programs that they start, and pg_ctl keeps it until its server has it.
 */
void tde_policy_handover_settle(int fd);

/* Around a command of pg_rewind: lend the keys if it starts PostgreSQL, and take them back. */
bool tde_policy_handover_lend(const char *command);
void tde_policy_handover_take_back(void);

#endif
