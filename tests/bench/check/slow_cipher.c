/*
 * slow_cipher.c - a library for LD_PRELOAD that makes AES-XTS of tde four times as slow.
 *
 * tde asks OpenSSL's provider for its functions with OSSL_PROVIDER_query_operation; here it gets
 * a copy of the table in which the function that encrypts does its work several times.  The
 * openssl program finds the functions inside libcrypto and keeps its speed.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <openssl/core_dispatch.h>
#include <openssl/provider.h>
#include <string.h>
#include <strings.h>

enum { TIMES = 4, MAX_FUNCTIONS = 64, MAX_ALGORITHMS = 256 };

static OSSL_FUNC_cipher_update_fn *original;

static int slow_update(void *context, unsigned char *out, size_t *written, size_t size,
                       const unsigned char *in, size_t length)
{
    /* XTS keeps no state from one data unit to the next, so repetitions change nothing. */
    static __thread unsigned char scratch[8192];

    for (int i = 1; i < TIMES; i++)
        if (length <= sizeof scratch)
            original(context, scratch, written, sizeof scratch, in, length);
    return original(context, out, written, size, in, length);
}

static const OSSL_DISPATCH *slowed(const OSSL_DISPATCH *functions)
{
    static OSSL_DISPATCH copies[8][MAX_FUNCTIONS];
    static size_t used;
    OSSL_DISPATCH *copy = copies[used++ % 8];

    for (size_t i = 0; i < MAX_FUNCTIONS - 1 && functions[i].function_id != 0; i++) {
        copy[i] = functions[i];
        if (functions[i].function_id == OSSL_FUNC_CIPHER_UPDATE) {
            original = OSSL_FUNC_cipher_update(&functions[i]);
            copy[i].function = (void (*)(void))slow_update;
        }
    }
    return copy;
}

const OSSL_ALGORITHM *OSSL_PROVIDER_query_operation(const OSSL_PROVIDER *provider, int operation,
                                                    int *no_cache)
{
    static OSSL_ALGORITHM table[MAX_ALGORITHMS];
    const OSSL_ALGORITHM *(*next)(const OSSL_PROVIDER *, int, int *) =
        (const OSSL_ALGORITHM *(*)(const OSSL_PROVIDER *, int, int *))(
            dlsym(RTLD_NEXT, "OSSL_PROVIDER_query_operation"));
    const OSSL_ALGORITHM *found = next(provider, operation, no_cache);
    size_t i;

    if (operation != OSSL_OP_CIPHER || found == NULL)
        return found;
    for (i = 0; i < MAX_ALGORITHMS - 1 && found[i].algorithm_names != NULL; i++) {
        table[i] = found[i];
        if (strcasestr(found[i].algorithm_names, "-XTS") != NULL)
            table[i].implementation = slowed(found[i].implementation);
    }
    memset(&table[i], 0, sizeof table[i]);
    return table;
}
