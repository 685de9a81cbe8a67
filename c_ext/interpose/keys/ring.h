/*
 * keys/ring.h - the keys of the open keystore inside a PostgreSQL process.
 *
 * The keys live in one shared anonymous mapping made before any fork, so a tablespace
 * key that one backend unwraps is there for all.  OpenSSL contexts are private to a
 * thread; those that the postmaster made before a fork are inherited.
 */
#ifndef TDE_INTERPOSE_KEYS_RING_H
#define TDE_INTERPOSE_KEYS_RING_H

#include <stdbool.h>
#include <stdint.h>

#include "crypto/cipher.h"
#include "format/identity.h"

/* Which key of the ring; a small number that fits the table of open files. */
typedef int tde_key_index;

#define TDE_KEY_NONE (-1)      /* no key: the keystore is closed, or the record is missing or bad */
#define TDE_KEY_PLAINTEXT (-2) /* a record says that this tablespace is not encrypted */

/*
 * Read the hand-over from file descriptor FD, which is left open, and load the keys of
 * WAL and the built-in tablespaces; others are loaded when first needed.  Returns NULL, or
 * what is wrong in words.
 */
const char *tde_keys_open(int fd);

bool tde_keys_are_open(void);

/*
 * The key for a file of this identity; a problem is reported on standard error.  PATH leads to
 * the file from the working directory; NULL when it is not known.
 */
tde_key_index tde_keys_find(const struct tde_identity *id, const char *path);

/* This thread's cipher for a key that tde_keys_find returned; NULL when memory is short. */
struct tde_cipher *tde_keys_cipher(tde_key_index index);

#endif
