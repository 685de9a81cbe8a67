/*
 * crypto/cipher.c - AES-XTS with OpenSSL.
 */
#include "crypto/cipher.h"

#include "crypto/xts.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>

#include <stdlib.h>
#include <string.h>

struct tde_cipher {
    struct tde_xts *encrypt;
    struct tde_xts *decrypt;
    EVP_CIPHER_CTX *tail; /* AES-256-ECB, one block at a time; NULL without a tail key */
};

size_t tde_crypto_key_size(int algorithm)
{
    switch (algorithm) {
    case TDE_ALGORITHM_AES128:
        return 32;
    case TDE_ALGORITHM_AES256:
        return 64;
    default:
        return 0;
    }
}

struct tde_cipher *tde_crypto_cipher_new(int algorithm, const uint8_t *key)
{
    return tde_crypto_cipher_new_of(tde_crypto_library(), algorithm, key);
}

struct tde_cipher *tde_crypto_cipher_new_of(const struct tde_library *library, int algorithm,
                                            const uint8_t *key)
{
    size_t size = tde_crypto_key_size(algorithm);
    const char *name = algorithm == TDE_ALGORITHM_AES128 ? "AES-128-XTS" : "AES-256-XTS";
    struct tde_cipher *cipher;

    /* With equal halves XTS loses its proof (Rogaway 2004), so FIPS 140 forbids them too. */
    if (size == 0 || CRYPTO_memcmp(key, key + size / 2, size / 2) == 0)
        return NULL;
    cipher = calloc(1, sizeof *cipher);
    if (cipher == NULL)
        return NULL;
    cipher->encrypt = tde_crypto_xts_new(library, name, key, size, true);
    cipher->decrypt = tde_crypto_xts_new(library, name, key, size, false);
    if (cipher->encrypt == NULL || cipher->decrypt == NULL) {
        tde_crypto_cipher_free(cipher);
        return NULL;
    }
    return cipher;
}

int tde_crypto_cipher_set_tail_key(struct tde_cipher *cipher, const uint8_t *tail_key)
{
    EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();

    if (context == NULL)
        return -1;
    if (EVP_EncryptInit_ex(context, EVP_aes_256_ecb(), NULL, tail_key, NULL) != 1 ||
        EVP_CIPHER_CTX_set_padding(context, 0) != 1) {
        EVP_CIPHER_CTX_free(context);
        return -1;
    }
    EVP_CIPHER_CTX_free(cipher->tail);
    cipher->tail = context;
    return 0;
}

bool tde_crypto_cipher_has_tail_key(const struct tde_cipher *cipher)
{
    return cipher->tail != NULL;
}

void tde_crypto_cipher_free(struct tde_cipher *cipher)
{
    if (cipher == NULL)
        return;
    tde_crypto_xts_free(cipher->encrypt);
    tde_crypto_xts_free(cipher->decrypt);
    EVP_CIPHER_CTX_free(cipher->tail); /* OpenSSL wipes the key schedule. */
    free(cipher);
}

/* The first bytes are looked at before memcmp compares the rest with itself, shifted. */
bool tde_crypto_is_zero_throughout(const void *data, size_t length)
{
    const uint8_t *bytes = data;
    size_t head = length < TDE_CIPHER_BLOCK ? length : TDE_CIPHER_BLOCK;

    for (size_t i = 0; i < head; i++)
        if (bytes[i] != 0)
            return false;
    return length == head || memcmp(bytes, bytes + head, length - head) == 0;
}

static int xts(struct tde_xts *direction, const uint8_t *tweak, const uint8_t *src,
               uint8_t *dst, size_t length)
{
    if (length == 0)
        return 0;
    if (length % TDE_CIPHER_BLOCK != 0 || length > TDE_BLOCK_SIZE)
        return -1;
    return tde_crypto_xts_run(direction, tweak, src, dst, length);
}

int tde_crypto_encrypt(struct tde_cipher *cipher, const uint8_t tweak[TDE_TWEAK_SIZE],
                       const uint8_t *src, uint8_t *dst, size_t length)
{
    return xts(cipher->encrypt, tweak, src, dst, length);
}

int tde_crypto_decrypt(struct tde_cipher *cipher, const uint8_t tweak[TDE_TWEAK_SIZE],
                       const uint8_t *src, uint8_t *dst, size_t length)
{
    return xts(cipher->decrypt, tweak, src, dst, length);
}

/*
 * The mask is AES(AES(tweak) xor index): CBC-MAC over exactly two blocks, a
 * pseudo-random function of (tweak, index) because the length never varies.
 */
int tde_crypto_mask_tail(struct tde_cipher *cipher, const uint8_t tweak[TDE_TWEAK_SIZE],
                         uint32_t index, uint8_t *data, size_t length)
{
    uint8_t mask[TDE_CIPHER_BLOCK];
    int written = 0;

    if (cipher->tail == NULL || length >= TDE_CIPHER_BLOCK)
        return -1;
    if (EVP_EncryptUpdate(cipher->tail, mask, &written, tweak, (int)TDE_CIPHER_BLOCK) != 1)
        return -1;
    for (size_t i = 0; i < 4; i++)
        mask[12 + i] ^= (uint8_t)(index >> (24 - 8 * i));
    if (EVP_EncryptUpdate(cipher->tail, mask, &written, mask, (int)TDE_CIPHER_BLOCK) != 1)
        return -1;
    for (size_t i = 0; i < length; i++)
        data[i] ^= mask[i];
    return 0;
}
