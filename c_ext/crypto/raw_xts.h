/*
 * crypto/raw_xts.h - the two AES keys of an XTS key by themselves: many trials at one place.
 *
 * XTS decrypts one AES block as D(c XOR mask) XOR mask, and the mask depends on the tweak only.
 * So thousands of candidates for a block are decrypted by one call of ECB.
 */
#ifndef TDE_CRYPTO_RAW_XTS_H
#define TDE_CRYPTO_RAW_XTS_H

#include <stddef.h>
#include <stdint.h>

#include "crypto/sizes.h"

struct tde_raw_xts;

/* NULL when the algorithm is unknown or OpenSSL refuses. */
struct tde_raw_xts *tde_crypto_raw_xts_new(int algorithm, const uint8_t *key);
void tde_crypto_raw_xts_free(struct tde_raw_xts *raw);

/* The mask of the first AES block of the unit with this tweak.  0 or -1. */
int tde_crypto_raw_xts_mask(struct tde_raw_xts *raw, const uint8_t tweak[TDE_TWEAK_SIZE],
                            uint8_t mask[TDE_CIPHER_BLOCK]);

/* AES without any mode over LENGTH bytes, whole AES blocks, in place.  0 or -1. */
int tde_crypto_raw_xts_decrypt(struct tde_raw_xts *raw, uint8_t *blocks, size_t length);

#endif
