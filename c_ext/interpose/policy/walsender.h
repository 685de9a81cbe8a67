/*
 * policy/walsender.h - what a process of the server sends to others: base backups and WAL.
 *
 * A base backup is sent as it is on disk.  Streamed WAL is sent in plaintext, and whoever
 * stores it must encrypt it again: a standby under tde does, and so do pg_basebackup and
 * pg_receivewal under tde.  They say so with a setting of their connection (calls/libpq.c), and
 * with another which keystore they do it with: its keys must be the ones that WAL is read with.
 */
#ifndef TDE_INTERPOSE_POLICY_WALSENDER_H
#define TDE_INTERPOSE_POLICY_WALSENDER_H

#include <stdbool.h>

#define TDE_WALSENDER_SETTING "tde.streamed_wal"
#define TDE_WALSENDER_OPTION "-c " TDE_WALSENDER_SETTING "=encrypted"
#define TDE_WALSENDER_KEYSTORE_SETTING "tde.keystore"
#define TDE_WALSENDER_PROOF_SETTING "tde.wal_key"
/* Set by the server, which no client can change. */
#define TDE_WALSENDER_SERVER_SETTING "tde.server_keystore"

/* Whether this program has what the questions below need; a server that hides it is refused. */
bool tde_policy_walsender_is_supported(void);

/* Whether a file opened with FLAGS by this process is about to be sent in a base backup. */
bool tde_policy_walsender_sends_backup(int flags);

/* Whether this process sends WAL as it is, to whoever stores it. */
bool tde_policy_walsender_streams_wal(void);

/* Whether this process streams WAL to a client that has not said that it encrypts it. */
bool tde_policy_walsender_is_unsafe(void);

/*
 * The keystore that the client of this process encrypts streamed WAL with, when it is not ours or
 * has another WAL key under our name; NULL when it is ours, or when the client did not say (those
 * of the first releases do not).
 */
const char *tde_policy_walsender_foreign_keystore(void);

/*
 * In a postmaster with keys: let its clients ask which keystore it encrypts with, before any is
 * there.  pg_basebackup and pg_receivewal do (calls/libpq.c).
 */
void tde_policy_walsender_say_keystore(void);

#endif
