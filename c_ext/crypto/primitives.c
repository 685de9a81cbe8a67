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

#include <string.h>

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
