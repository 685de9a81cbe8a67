/*
 * format/block.h - whole blocks of a file as they are stored, encrypted under their identities.
 */
#ifndef TDE_FORMAT_BLOCK_H
#define TDE_FORMAT_BLOCK_H

#include <stddef.h>
#include <stdint.h>

#include "crypto/cipher.h"
#include "format/identity.h"

/*
 * COUNT whole blocks, the first of them block FIRST of the file ID, with the rule that
 * a block of zeros stays a block of zeros.  DST may equal SRC.  0, or -1 when OpenSSL refuses
 * or a block number does not fit the identity.
 */
int tde_format_encrypt_blocks(struct tde_cipher *cipher, const struct tde_identity *id,
                              uint64_t first, const uint8_t *src, uint8_t *dst, size_t count);
int tde_format_decrypt_blocks(struct tde_cipher *cipher, const struct tde_identity *id,
                              uint64_t first, const uint8_t *src, uint8_t *dst, size_t count);

#endif
