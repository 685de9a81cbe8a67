/*
 * crypto/primitives.h - what key records are made with: AES-256-GCM, HKDF, HMAC, SHA-256.
 *
 * Functions return 0, or -1 when OpenSSL refuses.
 */
#ifndef TDE_CRYPTO_PRIMITIVES_H
#define TDE_CRYPTO_PRIMITIVES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "crypto/sizes.h"

/* Whether OpenSSL offers all that keys and pages need; its configuration may leave it out. */
bool tde_crypto_is_complete(void);

/* What is wrong when it is not. */
#define TDE_CRYPTO_INCOMPLETE                                                                      \
    "OpenSSL offers no AES-XTS, AES-GCM, SHA-256, HKDF, HMAC or random numbers: a provider that "  \
    "its configuration asks for, such as fips, may be missing: see OPENSSL_CONF"

/* AES-256-GCM; DST holds LENGTH bytes.  -1 (and a wiped DST) when the tag does not fit. */
int tde_crypto_gcm_decrypt(const uint8_t *key, const uint8_t *nonce, const uint8_t *aad,
                           size_t aad_length, const uint8_t *src, size_t length, const uint8_t *tag,
                           uint8_t *dst);

/* The other way round.  The nonce must be new for each message under a key. */
int tde_crypto_gcm_encrypt(const uint8_t *key, const uint8_t *nonce, const uint8_t *aad,
                           size_t aad_length, const uint8_t *src, size_t length, uint8_t *dst,
                           uint8_t tag[TDE_GCM_TAG_SIZE]);

/* HKDF-SHA256 without salt (RFC 5869): SIZE bytes of key material for the use that INFO names. */
int tde_crypto_derive(const uint8_t *key, size_t key_size, const uint8_t *info, size_t info_size,
                      uint8_t *to, size_t size);

/* HMAC-SHA256 under one key, for many messages one after the other. */
struct tde_hmac;

/* NULL when memory is short. */
struct tde_hmac *tde_crypto_hmac_new(const uint8_t *key, size_t key_size);
void tde_crypto_hmac_free(struct tde_hmac *hmac);

/* The code of a message in two parts, of which either may be empty. */
int tde_crypto_hmac(struct tde_hmac *hmac, const uint8_t *first, size_t first_size,
                    const uint8_t *second, size_t second_size, uint8_t code[TDE_DIGEST_SIZE]);

/* Whether two secrets are equal, in a time that does not tell where they differ. */
bool tde_crypto_equal(const void *a, const void *b, size_t length);

/* SHA-256. */
int tde_crypto_digest(const void *data, size_t length, uint8_t digest[TDE_DIGEST_SIZE]);

int tde_crypto_random(uint8_t *to, size_t length);
void tde_crypto_wipe(void *data, size_t length);

#endif
