/*
 * crypto/exchange.h - X25519 (RFC 7748): a secret that two sides have, of whom each knows the
 * other's public key only.
 *
 * Functions return 0, or -1 when OpenSSL refuses.
 */
#ifndef TDE_CRYPTO_EXCHANGE_H
#define TDE_CRYPTO_EXCHANGE_H

#include <stdint.h>

#define TDE_EXCHANGE_SIZE 32u /* of a private key, a public key and the secret */

struct tde_exchange_key {
    uint8_t own[TDE_EXCHANGE_SIZE]; /* secret */
    uint8_t open[TDE_EXCHANGE_SIZE];
};

/* The key is all zeros when there is none. */
int tde_crypto_exchange_new(struct tde_exchange_key *key);

/* -1 also for a public key that leaves no secret (RFC 7748, section 6.1). */
int tde_crypto_exchange(const struct tde_exchange_key *key, const uint8_t other[TDE_EXCHANGE_SIZE],
                        uint8_t secret[TDE_EXCHANGE_SIZE]);

#endif
