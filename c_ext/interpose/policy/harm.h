/*
 * policy/harm.h - a server writes nothing into its own keystore.
 *
 * Where a server writes is said by settings (log_directory, external_pid_file), by those who may
 * write files in SQL, and by links inside the data directory, which whoever may write to the
 * volume can plant.  None of them needs the keystore's passphrase.
 */
#ifndef TDE_INTERPOSE_POLICY_HARM_H
#define TDE_INTERPOSE_POLICY_HARM_H

#include <stdbool.h>

/* Remember which directories the keystore has, once the keys are open. */
void tde_policy_harm_note(void);

/*
 * Before a name is made, removed, changed or written through: whether PATH leads into the
 * keystore, which is reported with errno EPERM.  With FOLLOWS the call goes on where PATH itself
 * is a link.
 */
bool tde_policy_harm_refuses(int dirfd, const char *path, bool follows);

/* The same for a file that exists and was opened to be written; nothing was written yet. */
bool tde_policy_harm_refuses_open(int fd, int dirfd, const char *path);

#endif
