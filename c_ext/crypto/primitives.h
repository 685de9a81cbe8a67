/*
 * crypto/primitives.h - what key records are made with: AES-256-GCM, HKDF, SHA-256, random bytes.
 *
 * Functions return 0, or -1 when OpenSSL refuses.
 */
#ifndef TDE_CRYPTO_PRIMITIVES_H
#define TDE_CRYPTO_PRIMITIVES_H

#include <stddef.h>
#include <stdint.h>

#include "crypto/sizes.h"

/* AES-256-GCM; DST holds LENGTH bytes.  -1 (and a wiped DST) when the tag does not fit. */
int tde_crypto_gcm_decrypt(const uint8_t *key, const uint8_t *nonce, const uint8_t *aad,
                           size_t aad_length, const uint8_t *src, size_t length, const uint8_t *tag,
                           uint8_t *dst);

/* HKDF-SHA256 without salt (RFC 5869): SIZE bytes of key material for the use that INFO names. */
int tde_crypto_derive(const uint8_t *key, size_t key_size, const uint8_t *info, size_t info_size,
                      uint8_t *to, size_t size);

/* SHA-256. */
int tde_crypto_digest(const void *data, size_t length, uint8_t digest[TDE_DIGEST_SIZE]);

int tde_crypto_random(uint8_t *to, size_t length);
void tde_crypto_wipe(void *data, size_t length);

#endif
