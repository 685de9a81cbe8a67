/*
 * crypto/cipher.h - AES-XTS with OpenSSL.  No Python, no I/O.
 *
 * Units are AES-XTS data units of at most 8192 bytes.  A cipher owns its OpenSSL
 * contexts and must be used by one thread at a time; make one per thread.
 * Functions return 0, or -1 when OpenSSL refuses; they never leave plaintext in a
 * destination that was to hold ciphertext.
 */
#ifndef TDE_CRYPTO_CIPHER_H
#define TDE_CRYPTO_CIPHER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "crypto/sizes.h"

enum tde_algorithm {
    TDE_ALGORITHM_PLAINTEXT = 0, /* a key record that says: do not encrypt this tablespace */
    TDE_ALGORITHM_AES128 = 1,
    TDE_ALGORITHM_AES256 = 2,
};

struct tde_cipher;
struct tde_library;

/* Both halves of an XTS key: 32 bytes for AES-128, 64 for AES-256; 0 for anything else. */
size_t tde_crypto_key_size(int algorithm);

/* NULL when the algorithm is unknown, the halves of the key are equal, or memory is short. */
struct tde_cipher *tde_crypto_cipher_new(int algorithm, const uint8_t *key);

/* The same with the XTS of LIBRARY, whichever was chosen. */
struct tde_cipher *tde_crypto_cipher_new_of(const struct tde_library *library, int algorithm,
                                            const uint8_t *key);

/*
 * Let CIPHER also mask the last partial AES block of a file (docs/format.md, section 5).
 * TAIL_KEY has TDE_TAIL_KEY_SIZE bytes.
 */
int tde_crypto_cipher_set_tail_key(struct tde_cipher *cipher, const uint8_t *tail_key);
bool tde_crypto_cipher_has_tail_key(const struct tde_cipher *cipher);

void tde_crypto_cipher_free(struct tde_cipher *cipher);

/* The same as below, whatever the first bytes are. */
bool tde_crypto_is_zero_throughout(const void *data, size_t length);

/*
 * Whether all bytes are zeros.  Data that is not zero nearly always shows it in its first bytes, so
 * those are looked at here, without a call: every page is asked, and every sector of one.
 */
static inline bool tde_crypto_is_zero(const void *data, size_t length)
{
    uint64_t first = 0;

    if (length >= sizeof first)
        memcpy(&first, data, sizeof first);
    return first == 0 && tde_crypto_is_zero_throughout(data, length);
}

/*
 * Plain XTS over one data unit of LENGTH bytes, a multiple of 16 up to 8192.  DST may
 * equal SRC.  A shorter unit is the prefix of the longer one with the same content.
 */
int tde_crypto_encrypt(struct tde_cipher *cipher, const uint8_t tweak[TDE_TWEAK_SIZE],
                       const uint8_t *src, uint8_t *dst, size_t length);
int tde_crypto_decrypt(struct tde_cipher *cipher, const uint8_t tweak[TDE_TWEAK_SIZE],
                       const uint8_t *src, uint8_t *dst, size_t length);

/* XOR the mask of the last LENGTH (< 16) bytes of a unit, AES block INDEX of it, into DATA. */
int tde_crypto_mask_tail(struct tde_cipher *cipher, const uint8_t tweak[TDE_TWEAK_SIZE],
                         uint32_t index, uint8_t *data, size_t length);

#endif
