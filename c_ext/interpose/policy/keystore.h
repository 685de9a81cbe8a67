/*
 * policy/keystore.h - which keystore this process encrypts with, to be compared with others'.
 */
#ifndef TDE_INTERPOSE_POLICY_KEYSTORE_H
#define TDE_INTERPOSE_POLICY_KEYSTORE_H

/* Remember the keystore of the hand-over in file descriptor FD, whose keys are in use. */
void tde_policy_keystore_note(int fd);

/* Its UUID as people read it, or "" when no keystore is open. */
const char *tde_policy_keystore_uuid(void);

/*
 * What another side with the same WAL key calls it, or "".  The UUID stands in the clear beside
 * the data, so somebody can make another keystore with it; this comes from the key.
 */
const char *tde_policy_keystore_proof(void);

#endif
