/*
 * crypto/primitives.c - see crypto/primitives.h.
 */
#include "crypto/primitives.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <openssl/rand.h>

#include <stdlib.h>
#include <string.h>

static bool has_cipher(const char *name)
{
    EVP_CIPHER *cipher = EVP_CIPHER_fetch(NULL, name, NULL);

    EVP_CIPHER_free(cipher);
    return cipher != NULL;
}

bool tde_crypto_is_complete(void)
{
    EVP_KDF *kdf = EVP_KDF_fetch(NULL, "HKDF", NULL);
    EVP_MAC *mac = EVP_MAC_fetch(NULL, "HMAC", NULL);
    uint8_t digest[TDE_DIGEST_SIZE];
    bool complete = kdf != NULL && mac != NULL && has_cipher("AES-256-GCM") &&
                    has_cipher("AES-128-XTS") && has_cipher("AES-256-XTS") &&
                    has_cipher("AES-256-ECB") && tde_crypto_digest("", 0, digest) == 0 &&
                    tde_crypto_random(digest, sizeof digest) == 0;

    EVP_KDF_free(kdf);
    EVP_MAC_free(mac);
    return complete;
}

int tde_crypto_gcm_decrypt(const uint8_t *key, const uint8_t *nonce, const uint8_t *aad,
                           size_t aad_length, const uint8_t *src, size_t length, const uint8_t *tag,
                           uint8_t *dst)
{
    EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();
    uint8_t expected[TDE_GCM_TAG_SIZE];
    int written = 0;
    int ok;

    memcpy(expected, tag, sizeof expected); /* OpenSSL's parameter is not const. */
    ok = context != NULL &&
         EVP_DecryptInit_ex(context, EVP_aes_256_gcm(), NULL, key, nonce) == 1 &&
         EVP_DecryptUpdate(context, NULL, &written, aad, (int)aad_length) == 1 &&
         EVP_DecryptUpdate(context, dst, &written, src, (int)length) == 1 &&
         EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, (int)TDE_GCM_TAG_SIZE,
                             expected) == 1 &&
         EVP_DecryptFinal_ex(context, dst + length, &written) == 1;
    EVP_CIPHER_CTX_free(context);
    if (!ok)
        tde_crypto_wipe(dst, length);
    return ok ? 0 : -1;
}

int tde_crypto_gcm_encrypt(const uint8_t *key, const uint8_t *nonce, const uint8_t *aad,
                           size_t aad_length, const uint8_t *src, size_t length, uint8_t *dst,
                           uint8_t tag[TDE_GCM_TAG_SIZE])
{
    EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();
    int written = 0;
    int ok = context != NULL &&
             EVP_EncryptInit_ex(context, EVP_aes_256_gcm(), NULL, key, nonce) == 1 &&
             EVP_EncryptUpdate(context, NULL, &written, aad, (int)aad_length) == 1 &&
             EVP_EncryptUpdate(context, dst, &written, src, (int)length) == 1 &&
             EVP_EncryptFinal_ex(context, dst + length, &written) == 1 &&
             EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, (int)TDE_GCM_TAG_SIZE, tag) == 1;

    EVP_CIPHER_CTX_free(context);
    return ok ? 0 : -1;
}

int tde_crypto_derive(const uint8_t *key, size_t key_size, const uint8_t *info, size_t info_size,
                      uint8_t *to, size_t size)
{
    EVP_KDF *kdf = EVP_KDF_fetch(NULL, "HKDF", NULL);
    EVP_KDF_CTX *context = kdf == NULL ? NULL : EVP_KDF_CTX_new(kdf);
    char digest[] = "SHA256";
    /* OpenSSL's parameters are not const; it only reads them here. */
    OSSL_PARAM parameters[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest, 0),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, (void *)(uintptr_t)key, key_size),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, (void *)(uintptr_t)info, info_size),
        OSSL_PARAM_construct_end(),
    };
    int ok = context != NULL && EVP_KDF_derive(context, to, size, parameters) == 1;

    EVP_KDF_CTX_free(context);
    EVP_KDF_free(kdf);
    return ok ? 0 : -1;
}

struct tde_hmac {
    EVP_MAC *algorithm;
    EVP_MAC_CTX *context;
};

struct tde_hmac *tde_crypto_hmac_new(const uint8_t *key, size_t key_size)
{
    struct tde_hmac *hmac = calloc(1, sizeof *hmac);
    char digest[] = "SHA256";
    OSSL_PARAM parameters[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0),
        OSSL_PARAM_construct_end(),
    };

    if (hmac == NULL)
        return NULL;
    hmac->algorithm = EVP_MAC_fetch(NULL, "HMAC", NULL);
    hmac->context = hmac->algorithm == NULL ? NULL : EVP_MAC_CTX_new(hmac->algorithm);
    if (hmac->context != NULL && EVP_MAC_init(hmac->context, key, key_size, parameters) == 1)
        return hmac;
    tde_crypto_hmac_free(hmac);
    return NULL;
}

void tde_crypto_hmac_free(struct tde_hmac *hmac)
{
    if (hmac == NULL)
        return;
    EVP_MAC_CTX_free(hmac->context);
    EVP_MAC_free(hmac->algorithm);
    free(hmac);
}

int tde_crypto_hmac(struct tde_hmac *hmac, const uint8_t *first, size_t first_size,
                    const uint8_t *second, size_t second_size, uint8_t code[TDE_DIGEST_SIZE])
{
    size_t length = 0;

    /* Without a key the context begins anew with the one that it has. */
    return EVP_MAC_init(hmac->context, NULL, 0, NULL) == 1 &&
                   EVP_MAC_update(hmac->context, first, first_size) == 1 &&
                   EVP_MAC_update(hmac->context, second, second_size) == 1 &&
                   EVP_MAC_final(hmac->context, code, &length, TDE_DIGEST_SIZE) == 1 &&
                   length == TDE_DIGEST_SIZE
               ? 0
               : -1;
}

bool tde_crypto_equal(const void *a, const void *b, size_t length)
{
    return CRYPTO_memcmp(a, b, length) == 0;
}

int tde_crypto_digest(const void *data, size_t length, uint8_t digest[TDE_DIGEST_SIZE])
{
    return EVP_Digest(data, length, digest, NULL, EVP_sha256(), NULL) == 1 ? 0 : -1;
}

int tde_crypto_random(uint8_t *to, size_t length)
{
    return RAND_bytes(to, (int)length) == 1 ? 0 : -1;
}

void tde_crypto_wipe(void *data, size_t length)
{
    OPENSSL_cleanse(data, length);
}
