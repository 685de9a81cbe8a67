/*
 * crypto/library.h - which libcrypto encrypts pages.
 *
 * OpenSSL encrypts AES-XTS two to three times as fast since 3.5, on processors that have VAES and
 * AVX-512.  Where this program is linked with an older one, a second library may be loaded beside
 * it.  It is asked for AES-XTS only: everything else stays with the library that is linked, and
 * what one of them has made is never given to the other.
 */
#ifndef TDE_CRYPTO_LIBRARY_H
#define TDE_CRYPTO_LIBRARY_H

#include <stdbool.h>

#include <openssl/core_dispatch.h>
#include <openssl/evp.h>
#include <openssl/provider.h>

struct tde_library {
    OSSL_LIB_CTX *context; /* of this library; NULL for the default one */
    EVP_CIPHER *(*fetch)(OSSL_LIB_CTX *, const char *, const char *);
    void (*free)(EVP_CIPHER *);
    const OSSL_PROVIDER *(*provider)(const EVP_CIPHER *);
    const OSSL_ALGORITHM *(*query)(const OSSL_PROVIDER *, int, int *);
    void (*unquery)(const OSSL_PROVIDER *, int, const OSSL_ALGORITHM *);
    void *(*provider_context)(const OSSL_PROVIDER *);
    const char *(*version)(int);
};

/* The library that this program is linked with, and the one that encrypts pages. */
const struct tde_library *tde_crypto_library_linked(void);
const struct tde_library *tde_crypto_library(void);

/* Whether a newer library would encrypt faster here; false when FIPS algorithms are demanded. */
bool tde_crypto_library_would_gain(void);

/*
 * Encrypt with the library at PATH from now on.  NULL, or what is wrong with it: then nothing has
 * changed.  It is asked for published results first, and for the same ones as the library that is
 * linked.  Call it before the first cipher is made and before there is a second thread; a second
 * call changes nothing.
 */
const char *tde_crypto_library_choose(const char *path);

#endif
