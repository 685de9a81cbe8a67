/*
 * crypto/raw_xts.c - see crypto/raw_xts.h.
 */
#include "crypto/raw_xts.h"

#include <openssl/evp.h>

#include <stdbool.h>
#include <stdlib.h>

#include "crypto/cipher.h"

struct tde_raw_xts {
    EVP_CIPHER_CTX *data;
    EVP_CIPHER_CTX *tweak;
};

static EVP_CIPHER_CTX *ecb(const EVP_CIPHER *type, const uint8_t *key, bool encrypt)
{
    EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();

    if (context != NULL && EVP_CipherInit_ex(context, type, NULL, key, NULL, encrypt) == 1 &&
        EVP_CIPHER_CTX_set_padding(context, 0) == 1)
        return context;
    EVP_CIPHER_CTX_free(context);
    return NULL;
}

struct tde_raw_xts *tde_crypto_raw_xts_new(int algorithm, const uint8_t *key)
{
    size_t half = tde_crypto_key_size(algorithm) / 2;
    const EVP_CIPHER *type = half == 16 ? EVP_aes_128_ecb() : EVP_aes_256_ecb();
    struct tde_raw_xts *raw = half == 0 ? NULL : calloc(1, sizeof *raw);

    if (raw == NULL)
        return NULL;
    raw->data = ecb(type, key, false);
    raw->tweak = ecb(type, key + half, true);
    if (raw->data != NULL && raw->tweak != NULL)
        return raw;
    tde_crypto_raw_xts_free(raw);
    return NULL;
}

void tde_crypto_raw_xts_free(struct tde_raw_xts *raw)
{
    if (raw == NULL)
        return;
    EVP_CIPHER_CTX_free(raw->data); /* OpenSSL wipes the key schedules. */
    EVP_CIPHER_CTX_free(raw->tweak);
    free(raw);
}

static int run(EVP_CIPHER_CTX *context, const uint8_t *from, uint8_t *to, size_t length)
{
    int written = 0;

    return EVP_CipherUpdate(context, to, &written, from, (int)length) == 1 &&
                   written == (int)length
               ? 0
               : -1;
}

int tde_crypto_raw_xts_mask(struct tde_raw_xts *raw, const uint8_t tweak[TDE_TWEAK_SIZE],
                            uint8_t mask[TDE_CIPHER_BLOCK])
{
    return run(raw->tweak, tweak, mask, TDE_CIPHER_BLOCK);
}

int tde_crypto_raw_xts_decrypt(struct tde_raw_xts *raw, uint8_t *blocks, size_t length)
{
    return run(raw->data, blocks, blocks, length);
}
