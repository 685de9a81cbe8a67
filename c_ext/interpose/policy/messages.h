/*
 * policy/messages.h - keys that come to a server while it runs.
 *
 * The tool writes a sealed message beside the server's published status (blocks/status.h) and has
 * the server read its configuration again, for which the postmaster opens the guard.  That is the
 * one moment of a running server that needs no thread and no signal of our own.  In PostgreSQL 15
 * it is inside the handler of SIGHUP, which interrupts nothing but the wait for connections.
 */
#ifndef TDE_INTERPOSE_POLICY_MESSAGES_H
#define TDE_INTERPOSE_POLICY_MESSAGES_H

/* Look for a message and do what it says; nothing in other processes than the postmaster. */
void tde_policy_messages_receive(void);

/* Say in the server's status with which key of WAL it writes. */
void tde_policy_messages_publish_wal_key(void);

#endif
