/*
 * policy/segment.h - the key of a WAL segment that has content.
 */
#ifndef TDE_INTERPOSE_POLICY_SEGMENT_H
#define TDE_INTERPOSE_POLICY_SEGMENT_H

#include "interpose/files/table.h"

/*
 * Give FILE, just opened as FD, the key that its segment was written with; a segment without
 * content keeps what it has.  0, or -1 with errno.
 */
int tde_policy_segment_settle(int fd, struct tde_file *file);

/*
 * A segment that restore_command has brought is refused when the keystore has no key for it: to
 * PostgreSQL it would be the end of WAL, and everything behind it would be lost in silence.  0, or
 * -1 with errno after a report.
 */
int tde_policy_segment_accept_restored(int dirfd, const char *path, const char *name);

/* What restore_command brings has this name until it has been looked at. */
#define TDE_RESTORED_NAME "RECOVERYXLOG"

/*
 * Before PostgreSQL gives such a file its name, it removes the server's own segment of that name.
 * So it is looked at then: what cannot be read must not take the place of what can.  0, or -1.
 */
int tde_policy_segment_may_be_removed(const char *path);

#endif
