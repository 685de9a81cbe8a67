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
#include "interpose/files/table.h"

/* Publish the server's status; without it (no memory) the server works and counts nothing. */
void tde_blocks_counters_create(void);

void tde_blocks_count_encrypted(const struct tde_file *file, size_t bytes);
void tde_blocks_count_decrypted(const struct tde_file *file, size_t bytes);

/* Bytes that went through the cipher since the start of the server. */
struct tde_blocks_counted {
    uint64_t encrypted;
    uint64_t decrypted;
};

/* Of all files of a class; relations of all kinds are one. */
struct tde_blocks_counted tde_blocks_counted_of_class(enum tde_file_class file_class);

/* Of all files with the key in a slot (keys/slots.h), which is that of one tablespace. */
struct tde_blocks_counted tde_blocks_counted_of_slot(uint32_t slot);

#endif
