/*
 * keys/slot_memory.c - see keys/slot_memory.h, and keys/slots.h for what is public of it.
 */
#include "interpose/keys/slot_memory.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

#include "crypto/primitives.h"
#include "interpose/keys/memory.h"

struct tde_keys_ring *tde_keys_ring;
struct tde_keys_directory *tde_keys_directory;

/* Guards the moments in which this process may write to the ring. */
static pthread_mutex_t ring_lock = PTHREAD_MUTEX_INITIALIZER;

struct tde_keys_scope *tde_keys_scope(void)
{
    return tde_keys_ring == NULL ? NULL : &tde_keys_ring->scope;
}

bool tde_keys_slots_create(void)
{
    tde_keys_directory = tde_keys_memory_shared(sizeof *tde_keys_directory);
    tde_keys_ring =
        tde_keys_directory == NULL ? NULL : tde_keys_memory_secret(sizeof *tde_keys_ring);
    if (tde_keys_ring == NULL) {
        tde_keys_slots_destroy();
        return false;
    }
    atomic_store(&tde_keys_directory->hint, TDE_KEYS_FIRST_TABLESPACE);
    return true;
}

void tde_keys_slots_destroy(void)
{
    if (tde_keys_ring != NULL &&
        mprotect(tde_keys_ring, sizeof *tde_keys_ring, PROT_READ | PROT_WRITE) == 0)
        tde_crypto_wipe(tde_keys_ring,
                        sizeof tde_keys_ring->scope +
                            TDE_KEYS_FIRST_TABLESPACE * sizeof tde_keys_ring->slots[0]);
    if (tde_keys_ring != NULL)
        munmap(tde_keys_ring, sizeof *tde_keys_ring);
    if (tde_keys_directory != NULL)
        munmap(tde_keys_directory, sizeof *tde_keys_directory);
    tde_keys_ring = NULL;
    tde_keys_directory = NULL;
}

int tde_keys_slots_protect(void)
{
    return mprotect(tde_keys_ring, sizeof *tde_keys_ring, PROT_READ);
}

bool tde_keys_begin_change(void)
{
    pthread_mutex_lock(&ring_lock);
    if (mprotect(tde_keys_ring, sizeof *tde_keys_ring, PROT_READ | PROT_WRITE) == 0)
        return true;
    pthread_mutex_unlock(&ring_lock);
    return false;
}

void tde_keys_end_change(void)
{
    int saved = errno;

    mprotect(tde_keys_ring, sizeof *tde_keys_ring, PROT_READ);
    pthread_mutex_unlock(&ring_lock);
    errno = saved;
}

const struct tde_key_scope *tde_keys_slots_newest_master(void)
{
    const struct tde_keys_scope *scope = &tde_keys_ring->scope;
    uint32_t count = atomic_load_explicit(&scope->rotations, memory_order_acquire);

    return count == 0 ? &scope->scope : &scope->rotated[(count - 1) % TDE_KEYS_ROTATIONS];
}

const struct tde_key_scope *tde_keys_slots_master(const uint8_t master_key_id[TDE_UUID_SIZE])
{
    const struct tde_key_scope *newest = tde_keys_slots_newest_master();

    return memcmp(newest->master_key_id, master_key_id, TDE_UUID_SIZE) == 0 ? newest : NULL;
}

/*
 * Only the postmaster does this.  The place that it takes is that of a key which eight rotations
 * have replaced; nobody who has found that one is still reading it.
 */
int tde_keys_slots_add_master(const struct tde_key_scope *master)
{
    uint32_t count;

    if (!tde_keys_begin_change())
        return -1;
    count = atomic_load(&tde_keys_ring->scope.rotations);
    tde_keys_ring->scope.rotated[count % TDE_KEYS_ROTATIONS] = *master;
    atomic_store_explicit(&tde_keys_ring->scope.rotations, count + 1, memory_order_release);
    tde_keys_end_change();
    return 0;
}
