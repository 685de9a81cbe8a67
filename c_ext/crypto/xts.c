/*
 * crypto/xts.c - AES-XTS through the functions of OpenSSL's provider.
 *
 * A new tweak means a new initialisation vector, and EVP_CipherInit_ex is the only way
 * that EVP has to set one.  In OpenSSL 3.0 it asks the provider for the vector's length
 * with a search by name each time: 70 ns beside the 1450 ns that AES-256 takes for a page.
 * EVP only passes the call on, so the functions that it found are called here directly,
 * as provider-cipher(7) specifies them.
 */
#include "crypto/xts.h"

#include "crypto/sizes.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct tde_xts {
    const struct tde_library *library; /* Only its functions may have what it has made. */
    EVP_CIPHER *kind;                  /* Keeps the provider loaded. */
    void *context;    /* the provider's, with the scheduled key in it */
    OSSL_FUNC_cipher_freectx_fn *free_context;
    OSSL_FUNC_cipher_encrypt_init_fn *init; /* decrypt_init has the same type */
    OSSL_FUNC_cipher_update_fn *update;
};

/* A provider lists the names of an algorithm as "AES-256-XTS:1.3.111.2.1619.0.1.2". */
static bool has_name(const char *names, const char *name)
{
    size_t length = strlen(name);

    while (names != NULL) {
        if (strncasecmp(names, name, length) == 0 &&
            (names[length] == '\0' || names[length] == ':'))
            return true;
        names = strchr(names, ':');
        if (names != NULL)
            names++;
    }
    return false;
}

static OSSL_FUNC_cipher_newctx_fn *find_functions(struct tde_xts *xts,
                                                  const OSSL_DISPATCH *function, bool encrypt)
{
    int init = encrypt ? OSSL_FUNC_CIPHER_ENCRYPT_INIT : OSSL_FUNC_CIPHER_DECRYPT_INIT;
    OSSL_FUNC_cipher_newctx_fn *new_context = NULL;

    for (; function->function_id != 0; function++) {
        if (function->function_id == OSSL_FUNC_CIPHER_NEWCTX)
            new_context = OSSL_FUNC_cipher_newctx(function);
        else if (function->function_id == OSSL_FUNC_CIPHER_FREECTX)
            xts->free_context = OSSL_FUNC_cipher_freectx(function);
        else if (function->function_id == OSSL_FUNC_CIPHER_UPDATE)
            xts->update = OSSL_FUNC_cipher_update(function);
        else if (function->function_id == init)
            xts->init = OSSL_FUNC_cipher_encrypt_init(function);
    }
    return xts->free_context != NULL && xts->update != NULL && xts->init != NULL ? new_context
                                                                                 : NULL;
}

static int make_context(struct tde_xts *xts, const char *name, bool encrypt)
{
    const OSSL_PROVIDER *provider = xts->library->provider(xts->kind);
    OSSL_FUNC_cipher_newctx_fn *new_context = NULL;
    int no_store = 0;
    const OSSL_ALGORITHM *algorithms =
        xts->library->query(provider, OSSL_OP_CIPHER, &no_store);

    for (const OSSL_ALGORITHM *at = algorithms; at != NULL && at->algorithm_names != NULL; at++) {
        if (has_name(at->algorithm_names, name)) {
            new_context = find_functions(xts, at->implementation, encrypt);
            break;
        }
    }
    xts->library->unquery(provider, OSSL_OP_CIPHER, algorithms);
    if (new_context != NULL)
        xts->context = new_context(xts->library->provider_context(provider));
    return xts->context != NULL ? 0 : -1;
}

struct tde_xts *tde_crypto_xts_new(const struct tde_library *library, const char *name,
                                   const uint8_t *key, size_t key_size, bool encrypt)
{
    struct tde_xts *xts = calloc(1, sizeof *xts);

    if (xts == NULL)
        return NULL;
    xts->library = library;
    xts->kind = library->fetch(library->context, name, NULL);
    /* The key is scheduled once here; each data unit afterwards only sets its tweak. */
    if (xts->kind == NULL || make_context(xts, name, encrypt) != 0 ||
        xts->init(xts->context, key, key_size, NULL, 0, NULL) != 1) {
        tde_crypto_xts_free(xts);
        return NULL;
    }
    return xts;
}

void tde_crypto_xts_free(struct tde_xts *xts)
{
    if (xts == NULL)
        return;
    if (xts->context != NULL)
        xts->free_context(xts->context); /* It wipes the key schedule. */
    xts->library->free(xts->kind);
    free(xts);
}

int tde_crypto_xts_run(struct tde_xts *xts, const uint8_t *tweak, const uint8_t *src, uint8_t *dst,
                       size_t length)
{
    size_t written = 0;

    if (xts->init(xts->context, NULL, 0, tweak, TDE_TWEAK_SIZE, NULL) != 1 ||
        xts->update(xts->context, dst, &written, length, src, length) != 1)
        return -1;
    return written == length ? 0 : -1;
}
