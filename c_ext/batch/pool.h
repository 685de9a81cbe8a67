/*
 * batch/pool.h - the ciphers of one key, shared by the threads of a process.  No Python.
 *
 * A tde_cipher serves one thread at a time and scheduling a key costs about as much as
 * encrypting a page, so ciphers that are not in use wait here for the next caller.
 */
#ifndef TDE_BATCH_POOL_H
#define TDE_BATCH_POOL_H

#include "crypto/cipher.h"

#define TDE_MAX_THREADS 64u

struct tde_library;
struct tde_pool;

enum tde_pool_status {
    TDE_POOL_OK,
    TDE_POOL_CLOSED,
    TDE_POOL_REFUSED, /* OpenSSL made no cipher: out of memory, or its policy forbids AES-XTS. */
};

/*
 * KEY has tde_crypto_key_size(ALGORITHM) bytes and is copied.  All ciphers are those of LIBRARY,
 * also the ones that are made after another was chosen.  NULL when OpenSSL refuses.
 */
struct tde_pool *tde_batch_pool_new(const struct tde_library *library, int algorithm,
                                    const uint8_t *key);

/* Wipe the key; ciphers that are in use are freed when they come back. */
void tde_batch_pool_close(struct tde_pool *pool);
bool tde_batch_pool_is_closed(struct tde_pool *pool);

/* The caller makes sure that no cipher is in use.  NULL is allowed. */
void tde_batch_pool_free(struct tde_pool *pool);

/* Fill TEAM with SIZE (at most TDE_MAX_THREADS) ciphers, or with none on failure. */
enum tde_pool_status tde_batch_pool_take(struct tde_pool *pool, struct tde_cipher **team,
                                         size_t size);
void tde_batch_pool_give(struct tde_pool *pool, struct tde_cipher **team, size_t size);

#endif
