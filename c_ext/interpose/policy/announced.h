/*
 * policy/announced.h - keys before data: a standby says which keys it has when it connects.
 *
 * A standby that replays a tablespace whose key it lacks stops there.  Nothing in PostgreSQL's
 * protocol could ask it, so its walreceiver says it with settings of its connection, and the
 * walsender notes it in a file, for the commands that are about to use a new key
 * (tde/postgres/cluster/standbys.py).  What it says is believed by nobody who decrypts.
 */
#ifndef TDE_INTERPOSE_POLICY_ANNOUNCED_H
#define TDE_INTERPOSE_POLICY_ANNOUNCED_H

#define TDE_ANNOUNCED_KEYS_SETTING "tde.keys"
#define TDE_ANNOUNCED_DIRECTORY_SETTING "tde.keystore_directory"
#define TDE_ANNOUNCED_PLACE_SETTING "tde.keystore_place"
/* The value of programs that store WAL, and replay none. */
#define TDE_ANNOUNCED_WAL_ONLY "wal"

/* Not in base backups; PostgreSQL keeps the directory for files that a restart may lose. */
#define TDE_ANNOUNCED_PLACE "pg_stat_tmp"
#define TDE_ANNOUNCED_FILE "tde.standby."

/*
 * What a connection for WAL says, as options of it: "-c NAME=VALUE ...".  The same text each time
 * in this process, so that it can be found and taken out again.  NULL when memory is short.
 */
const char *tde_policy_announced_options(void);

/*
 * In a walsender that is about to stream: note what its client has said, once, and report keys of
 * this cluster that it lacks.
 */
void tde_policy_announced_note(void);

#endif
