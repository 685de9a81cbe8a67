/*
 * keys/ring.h - the keys of the open keystore inside a PostgreSQL process.
 *
 * Which key a tablespace has was decided when its link was made and stands in the map of the
 * cluster (keys/decide.h).  Here a file that is opened gets it from memory; only what memory
 * lacks is looked for in the map and in the keystore.
 */
#ifndef TDE_INTERPOSE_KEYS_RING_H
#define TDE_INTERPOSE_KEYS_RING_H

#include <stdbool.h>
#include <stdint.h>

#include "crypto/cipher.h"
#include "format/identity.h"

/* Which key of the ring: the number of its slot and, above 32 bits, how often that was reused. */
typedef int64_t tde_key_index;

#define TDE_KEY_NONE (-1)      /* no key */
#define TDE_KEY_PLAINTEXT (-2) /* a record says that this tablespace is not encrypted */

/*
 * Read the hand-over from file descriptor FD, which is left open, and load the keys of
 * WAL, and the one that others are derived from.  Returns NULL, or
 * what is wrong in words.
 */
const char *tde_keys_open(int fd);

bool tde_keys_are_open(void);

/*
 * Load the keys of all tablespaces of the data directory that this process works in, so that the
 * server needs its keystore no more.  What cannot be loaded is reported to those who need it.
 * -1 with errno ENOKEY, after a report, when the server cannot read its catalogs.
 */
int tde_keys_load_all(void);

/*
 * The key for a file of this identity.  PATH leads to the file from the working directory; NULL
 * when it is not known, and then the file is one of the server's own.  TDE_KEY_NONE with errno:
 * ENOKEY after a report on standard error, or what the caller can mend (EMFILE, ENOMEM).
 */
tde_key_index tde_keys_find(const struct tde_identity *id, const char *path);

/* This thread's cipher for a key that tde_keys_find returned; NULL with errno. */
struct tde_cipher *tde_keys_cipher(tde_key_index index);

#endif
