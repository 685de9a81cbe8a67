/*
 * io_backup.h - what a server process tells about base backups that it sends.
 */
#ifndef TDE_IO_BACKUP_H
#define TDE_IO_BACKUP_H

#include <stdbool.h>

/*
 * A setting that a client of BASE_BACKUP makes to say that it stores what it gets as it
 * gets it, and encrypts the WAL that it streams or streams none.
 */
#define TDE_BACKUP_SETTING "tde.base_backup"

/* Whether this program has what the two questions below need; a server that hides it is refused. */
bool tde_backup_is_supported(void);

/* Whether a file opened with FLAGS by this process is about to be sent in a base backup. */
bool tde_backup_is_sending(int flags);

/* Whether the client of this process has made the setting. */
bool tde_backup_is_wanted_raw(void);

/* In the client: make the setting for every connection of this program. */
void tde_backup_announce(void);

#endif
