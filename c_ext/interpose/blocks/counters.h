/*
 * blocks/counters.h - how many bytes a running server has encrypted and decrypted.
 *
 * The counters are part of what a server publishes about itself (blocks/status.h).
 */
#ifndef TDE_INTERPOSE_BLOCKS_COUNTERS_H
#define TDE_INTERPOSE_BLOCKS_COUNTERS_H

#include <stddef.h>
#include <stdint.h>

#include "format/identity.h"

/* Publish the server's status; without it (no memory) the server works and counts nothing. */
void tde_blocks_counters_create(void);

void tde_blocks_count_encrypted(enum tde_file_class file_class, size_t bytes);
void tde_blocks_count_decrypted(enum tde_file_class file_class, size_t bytes);

#endif
