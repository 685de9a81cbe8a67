/*
 * policy/links.h - the names of tablespaces in pg_tblspc, which a server makes and removes.
 */
#ifndef TDE_INTERPOSE_POLICY_LINKS_H
#define TDE_INTERPOSE_POLICY_LINKS_H

/*
 * Before LINK is made, to LOCATION or, when that is NULL, as a directory: when it is the name of
 * a tablespace, its key is decided (keys/decide.h).  0, or -1 with errno.  LOCK is for
 * tde_policy_links_end, once the link is there or could not be made.
 */
int tde_policy_links_begin(const char *location, const char *link, int *lock);

/* From here on others may decide; errno stays as it is. */
void tde_policy_links_end(int lock);

/*
 * After the link was made: sync its directory, the location, and the directory that this is in,
 * none of which PostgreSQL does.  0, or -1 with errno when a disk has failed.
 */
int tde_policy_links_sync(const char *location, const char *link);

/* After the name was removed. */
void tde_policy_links_removed(const char *link);

#endif
