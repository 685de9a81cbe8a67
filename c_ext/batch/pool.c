/*
 * batch/pool.c - the ciphers of one key, shared by the threads of a process.
 *
 * The mutex is held for a few instructions, or for the scheduling of a new key.  Python
 * calls in here with the interpreter lock held, so os.fork() never copies it locked.
 */
#include "batch/pool.h"

#include "crypto/primitives.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct tde_pool {
    pthread_mutex_t lock;
    const struct tde_library *library;
    int algorithm;
    bool closed;
    uint8_t key[TDE_MAX_KEY_SIZE];
    size_t idle_count;
    struct tde_cipher *idle[TDE_MAX_THREADS];
};

struct tde_pool *tde_batch_pool_new(const struct tde_library *library, int algorithm,
                                    const uint8_t *key)
{
    struct tde_pool *pool = calloc(1, sizeof *pool);

    if (pool == NULL)
        return NULL;
    /* The first cipher is made at once, so that a key that OpenSSL refuses is refused here. */
    pool->idle[0] = tde_crypto_cipher_new_of(library, algorithm, key);
    if (pool->idle[0] == NULL || pthread_mutex_init(&pool->lock, NULL) != 0) {
        tde_crypto_cipher_free(pool->idle[0]);
        free(pool);
        return NULL;
    }
    pool->idle_count = 1;
    pool->library = library;
    pool->algorithm = algorithm;
    memcpy(pool->key, key, tde_crypto_key_size(algorithm));
    return pool;
}

static void free_idle(struct tde_pool *pool)
{
    while (pool->idle_count > 0)
        tde_crypto_cipher_free(pool->idle[--pool->idle_count]);
}

void tde_batch_pool_close(struct tde_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    pool->closed = true;
    tde_crypto_wipe(pool->key, sizeof pool->key);
    free_idle(pool);
    pthread_mutex_unlock(&pool->lock);
}

bool tde_batch_pool_is_closed(struct tde_pool *pool)
{
    bool closed;

    pthread_mutex_lock(&pool->lock);
    closed = pool->closed;
    pthread_mutex_unlock(&pool->lock);
    return closed;
}

void tde_batch_pool_free(struct tde_pool *pool)
{
    if (pool == NULL)
        return;
    tde_batch_pool_close(pool);
    pthread_mutex_destroy(&pool->lock);
    free(pool);
}

static void put_back(struct tde_pool *pool, struct tde_cipher **team, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        if (pool->closed || pool->idle_count == TDE_MAX_THREADS)
            tde_crypto_cipher_free(team[i]);
        else
            pool->idle[pool->idle_count++] = team[i];
    }
}

static enum tde_pool_status take_out(struct tde_pool *pool, struct tde_cipher **team, size_t size)
{
    if (pool->closed)
        return TDE_POOL_CLOSED;
    for (size_t i = 0; i < size; i++) {
        team[i] = pool->idle_count > 0
                      ? pool->idle[--pool->idle_count]
                      : tde_crypto_cipher_new_of(pool->library, pool->algorithm, pool->key);
        if (team[i] == NULL) {
            put_back(pool, team, i);
            return TDE_POOL_REFUSED;
        }
    }
    return TDE_POOL_OK;
}

enum tde_pool_status tde_batch_pool_take(struct tde_pool *pool, struct tde_cipher **team,
                                         size_t size)
{
    enum tde_pool_status status;

    pthread_mutex_lock(&pool->lock);
    status = take_out(pool, team, size);
    pthread_mutex_unlock(&pool->lock);
    return status;
}

void tde_batch_pool_give(struct tde_pool *pool, struct tde_cipher **team, size_t size)
{
    pthread_mutex_lock(&pool->lock);
    put_back(pool, team, size);
    pthread_mutex_unlock(&pool->lock);
}
