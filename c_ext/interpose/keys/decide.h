/*
 * keys/decide.h - what key a tablespace has, decided once, before its first file exists.
 *
 * A tablespace exists for PostgreSQL from the moment that its name is made in pg_tblspc, on a
 * primary and on every node that replays WAL.  At that moment its key is chosen by what all of
 * them know, its location, and written into the map of the cluster.
 */
#ifndef TDE_INTERPOSE_KEYS_DECIDE_H
#define TDE_INTERPOSE_KEYS_DECIDE_H

#include <stdint.h>

enum tde_keys_moment {
    TDE_KEYS_COMMAND, /* CREATE TABLESPACE of a session: its WAL is written afterwards */
    TDE_KEYS_REPLAY,  /* the same read from WAL */
    TDE_KEYS_RESTORE, /* a base backup's link is made again, perhaps to another place */
    TDE_KEYS_UPGRADE, /* pg_upgrade repeats CREATE TABLESPACE for files that exist */
};

/*
 * Decide for the tablespace whose name LINK in pg_tblspc is about to be made, write the decision
 * into the map and load the key.  LOCATION is what the link leads to; NULL when a directory is
 * made instead (allow_in_place_tablespaces, or in replay for one that is dropped later).
 * 0; or -1 with errno, after a report when it is ENOKEY.  LOCK is a descriptor that keeps others
 * from deciding: a key is in use once there is a link, so it is closed when LINK was made.
 */
int tde_keys_decide(enum tde_keys_moment moment, const char *link, uint32_t oid,
                    const char *location, int *lock);

#endif
