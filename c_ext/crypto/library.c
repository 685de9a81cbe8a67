/*
 * crypto/library.c - see crypto/library.h.
 */
#include "crypto/library.h"

#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <openssl/crypto.h>

#include "crypto/sizes.h"
#include "crypto/xts.h"

/* The first release with AES-XTS for VAES and AVX-512. */
#define FAST_MAJOR 3u
#define FAST_MINOR 5u

static const struct tde_library linked = {
    .fetch = EVP_CIPHER_fetch,
    .free = EVP_CIPHER_free,
    .provider = EVP_CIPHER_get0_provider,
    .query = OSSL_PROVIDER_query_operation,
    .unquery = OSSL_PROVIDER_unquery_operation,
    .provider_context = OSSL_PROVIDER_get0_provider_ctx,
    .version = OpenSSL_version,
};

static struct tde_library second;
static const struct tde_library *chosen = &linked;

const struct tde_library *tde_crypto_library_linked(void)
{
    return &linked;
}

const struct tde_library *tde_crypto_library(void)
{
    return chosen;
}

static bool demands_fips(void)
{
    return EVP_default_properties_is_fips_enabled(NULL) == 1 ||
           OSSL_PROVIDER_available(NULL, "fips") == 1;
}

static bool has_wide_aes(void)
{
#ifdef __x86_64__
    /* What OpenSSL looks for, too. */
    return __builtin_cpu_supports("vaes") && __builtin_cpu_supports("vpclmulqdq") &&
           __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
#else
    return false;
#endif
}

static bool is_fast(unsigned int major, unsigned int minor)
{
    return major > FAST_MAJOR || (major == FAST_MAJOR && minor >= FAST_MINOR);
}

/* Where a configuration of OpenSSL takes AES-XTS away, it shall not come back by another way. */
static bool has_cipher(void)
{
    EVP_CIPHER *found = EVP_CIPHER_fetch(NULL, "AES-256-XTS", NULL);

    EVP_CIPHER_free(found);
    return found != NULL;
}

bool tde_crypto_library_would_gain(void)
{
    return has_wide_aes() && !is_fast(OPENSSL_version_major(), OPENSSL_version_minor()) &&
           !demands_fips() && has_cipher();
}

/*
 * The library's own symbols come first for it, or its calls would end in the one that is linked.
 * A sanitizer refuses that; there it is loaded without, because the wheel's was linked with
 * -Bsymbolic, so that its calls stay in it all the same.
 */
static void *load(const char *path)
{
#ifdef __SANITIZE_ADDRESS__
    return dlopen(path, RTLD_NOW | RTLD_LOCAL);
#else
    return dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);
#endif
}

/* ISO C has no conversion between pointers to objects and to functions; POSIX demands it. */
#define BIND(handle, member, name)                                                                 \
    do {                                                                                           \
        void *symbol = dlsym((handle), (name));                                                    \
        if (symbol == NULL)                                                                        \
            return "it is no libcrypto of OpenSSL 3";                                              \
        memcpy(&(member), &symbol, sizeof(member));                                                \
    } while (0)

static const char *bind(void *handle, struct tde_library *library)
{
    int (*initialise)(uint64_t, const OPENSSL_INIT_SETTINGS *);
    OSSL_LIB_CTX *(*make_context)(void);
    unsigned int (*major)(void);
    unsigned int (*minor)(void);

    BIND(handle, major, "OPENSSL_version_major");
    BIND(handle, minor, "OPENSSL_version_minor");
    BIND(handle, initialise, "OPENSSL_init_crypto");
    BIND(handle, make_context, "OSSL_LIB_CTX_new");
    BIND(handle, library->fetch, "EVP_CIPHER_fetch");
    BIND(handle, library->free, "EVP_CIPHER_free");
    BIND(handle, library->provider, "EVP_CIPHER_get0_provider");
    BIND(handle, library->query, "OSSL_PROVIDER_query_operation");
    BIND(handle, library->unquery, "OSSL_PROVIDER_unquery_operation");
    BIND(handle, library->provider_context, "OSSL_PROVIDER_get0_provider_ctx");
    BIND(handle, library->version, "OpenSSL_version");
    if (!is_fast(major(), minor()))
        return "it is older than OpenSSL 3.5, so it is no faster";
    /*
     * The path of its configuration is that of the machine which built it, where anybody may be
     * able to put a file that loads code.  Its end is left to the kernel: exit handlers of two
     * libraries in a process that other handlers still encrypt in are asking for trouble.
     */
    if (initialise(OPENSSL_INIT_NO_LOAD_CONFIG | OPENSSL_INIT_NO_ATEXIT, NULL) != 1)
        return "it cannot be initialised";
    library->context = make_context();
    return library->context == NULL ? "it cannot be initialised" : NULL;
}

struct vector {
    const char *name;
    size_t key_size;
    uint8_t key[64];
    uint8_t tweak[TDE_TWEAK_SIZE];
    uint8_t plain[32];
    uint8_t cipher[32];
};

/*
 * IEEE Std 1619-2007, annex B, vectors 2 and 10, of which a data unit's first 32 bytes are a data
 * unit as well.
 */
static const struct vector vectors[] = {
    {
        "AES-128-XTS",
        32,
        {0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11,
         0x11, 0x22, 0x22, 0x22, 0x22, 0x22, 0x22, 0x22, 0x22, 0x22, 0x22, 0x22, 0x22, 0x22, 0x22,
         0x22, 0x22},
        {0x33, 0x33, 0x33, 0x33, 0x33},
        {0x44, 0x44, 0x44, 0x44, 0x44, 0x44, 0x44, 0x44, 0x44, 0x44, 0x44, 0x44, 0x44, 0x44, 0x44,
         0x44, 0x44, 0x44, 0x44, 0x44, 0x44, 0x44, 0x44, 0x44, 0x44, 0x44, 0x44, 0x44, 0x44, 0x44,
         0x44, 0x44},
        {0xc4, 0x54, 0x18, 0x5e, 0x6a, 0x16, 0x93, 0x6e, 0x39, 0x33, 0x40, 0x38, 0xac, 0xef, 0x83,
         0x8b, 0xfb, 0x18, 0x6f, 0xff, 0x74, 0x80, 0xad, 0xc4, 0x28, 0x93, 0x82, 0xec, 0xd6, 0xd3,
         0x94, 0xf0},
    },
    {
        "AES-256-XTS",
        64,
        {0x27, 0x18, 0x28, 0x18, 0x28, 0x45, 0x90, 0x45, 0x23, 0x53, 0x60, 0x28, 0x74,
         0x71, 0x35, 0x26, 0x62, 0x49, 0x77, 0x57, 0x24, 0x70, 0x93, 0x69, 0x99, 0x59,
         0x57, 0x49, 0x66, 0x96, 0x76, 0x27, 0x31, 0x41, 0x59, 0x26, 0x53, 0x58, 0x97,
         0x93, 0x23, 0x84, 0x62, 0x64, 0x33, 0x83, 0x27, 0x95, 0x02, 0x88, 0x41, 0x97,
         0x16, 0x93, 0x99, 0x37, 0x51, 0x05, 0x82, 0x09, 0x74, 0x94, 0x45, 0x92},
        {0xff},
        {0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0a, 0x0b, 0x0c, 0x0d, 0x0e,
         0x0f, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x1a, 0x1b, 0x1c, 0x1d,
         0x1e, 0x1f},
        {0x1c, 0x3b, 0x3a, 0x10, 0x2f, 0x77, 0x03, 0x86, 0xe4, 0x83, 0x6c, 0x99, 0xe3, 0x70, 0xcf,
         0x9b, 0xea, 0x00, 0x80, 0x3f, 0x5e, 0x48, 0x23, 0x57, 0xa4, 0xae, 0x12, 0xd4, 0x14, 0xa3,
         0xe6, 0x3b},
    },
};

static bool transform(const struct tde_library *library, const struct vector *vector, bool encrypt,
                      const uint8_t *src, uint8_t *dst, size_t length)
{
    struct tde_xts *xts =
        tde_crypto_xts_new(library, vector->name, vector->key, vector->key_size, encrypt);
    bool done = xts != NULL && tde_crypto_xts_run(xts, vector->tweak, src, dst, length) == 0;

    tde_crypto_xts_free(xts);
    return done;
}

/* Whether the second library gives a published result, and for a page the other one's. */
static bool is_right(const struct vector *vector)
{
    uint8_t page[TDE_BLOCK_SIZE];
    uint8_t wanted[TDE_BLOCK_SIZE];
    uint8_t found[TDE_BLOCK_SIZE];

    if (!transform(&second, vector, true, vector->plain, found, sizeof vector->plain) ||
        memcmp(found, vector->cipher, sizeof vector->cipher) != 0)
        return false;
    for (size_t at = 0; at < sizeof page; at++)
        page[at] = (uint8_t)(at * 167 + (at >> 8));
    return transform(&linked, vector, true, page, wanted, sizeof page) &&
           transform(&second, vector, true, page, found, sizeof page) &&
           memcmp(found, wanted, sizeof page) == 0 &&
           transform(&second, vector, false, wanted, found, sizeof page) &&
           memcmp(found, page, sizeof page) == 0;
}

const char *tde_crypto_library_choose(const char *path)
{
    static char reason[256];
    const char *problem;
    void *handle;

    if (chosen != &linked)
        return NULL;
    handle = load(path);
    if (handle == NULL) {
        snprintf(reason, sizeof reason, "%s", dlerror());
        return reason;
    }
    problem = bind(handle, &second);
    for (size_t at = 0; problem == NULL && at < sizeof vectors / sizeof *vectors; at++)
        if (!is_right(&vectors[at]))
            problem = "it does not encrypt as OpenSSL does";
    /* The handle is never closed: a library that was initialised is not made to be unloaded. */
    if (problem == NULL)
        chosen = &second;
    return problem;
}
