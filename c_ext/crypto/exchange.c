/*
 * crypto/exchange.c - see crypto/exchange.h.
 */
#include "crypto/exchange.h"

#include <openssl/evp.h>

#include "crypto/primitives.h"

int tde_crypto_exchange_new(struct tde_exchange_key *key)
{
    EVP_PKEY *made = EVP_PKEY_Q_keygen(NULL, NULL, "X25519");
    size_t own = sizeof key->own;
    size_t open = sizeof key->open;
    int ok = made != NULL && EVP_PKEY_get_raw_private_key(made, key->own, &own) == 1 &&
             EVP_PKEY_get_raw_public_key(made, key->open, &open) == 1 &&
             own == sizeof key->own && open == sizeof key->open;

    EVP_PKEY_free(made);
    if (!ok)
        tde_crypto_wipe(key, sizeof *key);
    return ok ? 0 : -1;
}

int tde_crypto_exchange(const struct tde_exchange_key *key, const uint8_t other[TDE_EXCHANGE_SIZE],
                        uint8_t secret[TDE_EXCHANGE_SIZE])
{
    EVP_PKEY *ours = EVP_PKEY_new_raw_private_key_ex(NULL, "X25519", NULL, key->own,
                                                     sizeof key->own);
    EVP_PKEY *theirs = EVP_PKEY_new_raw_public_key_ex(NULL, "X25519", NULL, other,
                                                      TDE_EXCHANGE_SIZE);
    EVP_PKEY_CTX *context = ours == NULL ? NULL : EVP_PKEY_CTX_new_from_pkey(NULL, ours, NULL);
    size_t length = TDE_EXCHANGE_SIZE;
    /* OpenSSL refuses when the secret is all zeros. */
    int ok = context != NULL && theirs != NULL && EVP_PKEY_derive_init(context) == 1 &&
             EVP_PKEY_derive_set_peer(context, theirs) == 1 &&
             EVP_PKEY_derive(context, secret, &length) == 1 && length == TDE_EXCHANGE_SIZE;

    EVP_PKEY_CTX_free(context);
    EVP_PKEY_free(theirs);
    EVP_PKEY_free(ours);
    if (!ok)
        tde_crypto_wipe(secret, TDE_EXCHANGE_SIZE);
    return ok ? 0 : -1;
}
