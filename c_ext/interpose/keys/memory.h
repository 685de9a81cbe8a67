/*
 * keys/memory.h - memory that a server's processes share; they inherit it, nobody else maps it.
 *
 * Both return zeroed memory that munmap(2) frees, or NULL with errno.
 */
#ifndef TDE_INTERPOSE_KEYS_MEMORY_H
#define TDE_INTERPOSE_KEYS_MEMORY_H

#include <stddef.h>

void *tde_keys_memory_shared(size_t size);

/* Memory for keys: kept from swap and core dumps, and from other processes where it can be. */
void *tde_keys_memory_secret(size_t size);

#endif
