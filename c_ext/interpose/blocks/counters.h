/*
 * blocks/counters.h - how many bytes a running server has encrypted and decrypted.
 *
 * The counters live in a memory file that the postmaster keeps open; tde reads it
 * through /proc/<pid>/fd (tde/postgres/server/counters.py has the same layout).
 */
#ifndef TDE_INTERPOSE_BLOCKS_COUNTERS_H
#define TDE_INTERPOSE_BLOCKS_COUNTERS_H

#include <stddef.h>
#include <stdint.h>

#include "format/identity.h"

/* Make the shared counters; without them (no memory) the server works and counts nothing. */
void tde_blocks_counters_create(void);

void tde_blocks_count_encrypted(enum tde_file_class file_class, size_t bytes);
void tde_blocks_count_decrypted(enum tde_file_class file_class, size_t bytes);

#endif
