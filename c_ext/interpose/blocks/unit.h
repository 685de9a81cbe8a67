/*
 * blocks/unit.h - one data unit in memory: from what is stored to plaintext and back.
 *
 * A unit is a block of 8192 bytes, or less at the end of a file.  Its stored form is
 *
 *   all bytes zero                     when the plaintext is all zeros,
 *   AES-XTS of the whole AES blocks    otherwise, and after them
 *   up to 15 masked bytes              when the length is not a multiple of 16.
 *
 * A unit of an ephemeral file with less than 16 bytes is always masked: a mask may make
 * one byte zero by chance, which must not be taken for the first of these forms.
 */
#ifndef TDE_INTERPOSE_BLOCKS_UNIT_H
#define TDE_INTERPOSE_BLOCKS_UNIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "interpose/files/table.h"

/* Whether the stored form of LENGTH zero bytes is zeros. */
bool tde_blocks_keeps_zeros(const struct tde_file *file, size_t length);

/* UNIT is the unit's number in the file.  DST may equal SRC.  0, or -1 with errno. */
int tde_blocks_encode_unit(const struct tde_file *file, uint64_t unit, const uint8_t *src,
                           uint8_t *dst, size_t length);
int tde_blocks_decode_unit(const struct tde_file *file, uint64_t unit, const uint8_t *src,
                           uint8_t *dst, size_t length);

/* COUNT whole units from unit FIRST on. */
int tde_blocks_encode_units(const struct tde_file *file, uint64_t first, const uint8_t *src,
                            uint8_t *dst, size_t count);
int tde_blocks_decode_units(const struct tde_file *file, uint64_t first, const uint8_t *src,
                            uint8_t *dst, size_t count);

#endif
