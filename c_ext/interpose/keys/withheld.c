/*
 * keys/withheld.c - see keys/withheld.h.
 */
#include "interpose/keys/withheld.h"

#include <stdatomic.h>
#include <stddef.h>

#include "format/constants.h"
#include "interpose/keys/memory.h"

/* Shared by all processes of a server.  A number is 0 where nothing is locked any more. */
struct withheld {
    _Atomic uint32_t closed;
    _Atomic uint32_t count; /* of the places that were ever used */
    _Atomic uint32_t locked[TDE_KEYS_MOST_LOCKED];
};

static struct withheld *withheld;

bool tde_keys_withheld_create(bool closed)
{
    withheld = tde_keys_memory_shared(sizeof *withheld);
    if (withheld == NULL)
        return false;
    atomic_store(&withheld->closed, closed);
    return true;
}

bool tde_keys_withheld_lock(uint32_t oid)
{
    uint32_t count = atomic_load(&withheld->count);
    uint32_t place = count;

    for (uint32_t i = 0; i < count; i++) {
        uint32_t other = atomic_load(&withheld->locked[i]);

        if (other == oid)
            return true;
        if (other == 0)
            place = i;
    }
    if (place == TDE_KEYS_MOST_LOCKED)
        return false;
    atomic_store(&withheld->locked[place], oid);
    if (place == count)
        atomic_store(&withheld->count, count + 1);
    return true;
}

void tde_keys_withheld_unlock(uint32_t oid)
{
    uint32_t count = atomic_load(&withheld->count);

    for (uint32_t i = 0; i < count; i++)
        if (atomic_load(&withheld->locked[i]) == oid)
            atomic_store(&withheld->locked[i], 0);
}

void tde_keys_withheld_close(bool closed)
{
    atomic_store(&withheld->closed, closed);
}

enum tde_withheld tde_keys_withheld_find(uint32_t oid)
{
    uint32_t count;

    if (withheld == NULL || oid == TDE_DEFAULT_TABLESPACE || oid == TDE_GLOBAL_TABLESPACE)
        return TDE_NOT_WITHHELD;
    if (atomic_load_explicit(&withheld->closed, memory_order_acquire))
        return TDE_WITHHELD_CLOSED;
    count = atomic_load_explicit(&withheld->count, memory_order_acquire);
    for (uint32_t i = 0; i < count; i++)
        if (atomic_load_explicit(&withheld->locked[i], memory_order_acquire) == oid)
            return TDE_WITHHELD_LOCKED;
    return TDE_NOT_WITHHELD;
}

bool tde_keys_withheld_list(uint32_t *oids, uint32_t most)
{
    uint32_t count = atomic_load(&withheld->count);
    uint32_t listed = 0;

    for (uint32_t i = 0; i < count && listed < most; i++) {
        uint32_t oid = atomic_load(&withheld->locked[i]);

        if (oid != 0)
            oids[listed++] = oid;
    }
    while (listed < most)
        oids[listed++] = 0;
    return atomic_load(&withheld->closed) != 0;
}
