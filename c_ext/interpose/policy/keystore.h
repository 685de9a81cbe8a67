/*
 * policy/keystore.h - which keystore this process encrypts with, to be compared with others'.
 */
#ifndef TDE_INTERPOSE_POLICY_KEYSTORE_H
#define TDE_INTERPOSE_POLICY_KEYSTORE_H

/* Remember the keystore of the hand-over in file descriptor FD, whose keys are in use. */
void tde_policy_keystore_note(int fd);

/* Its UUID as people read it, or "" when no keystore is open. */
const char *tde_policy_keystore_uuid(void);

#endif
