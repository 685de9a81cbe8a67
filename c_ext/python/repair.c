/*
 * python/repair.c - find what stood in bytes 8 and 9 of pages of ciphertext.
 *
 * PostgreSQL's pg_checksums without keys writes the checksum of the ciphertext there.  The rest of
 * the page is untouched, so each of the 65,536 possible values is tried: with the right one the
 * first AES block decrypts to the front of a page's header.
 */
#include "python/module.h"

#include "crypto/cipher.h"
#include "crypto/primitives.h"
#include "crypto/raw_xts.h"
#include "format/identity.h"
#include "format/page.h"

#include <stdlib.h>
#include <string.h>

#define CHECKSUM_AT 8u
#define FLAGS_AT 10u
#define FLAGS_VALID 7
#define VALUES 65536u

enum repair_verdict {
    REPAIR_ZERO,      /* zeros */
    REPAIR_UNTOUCHED, /* not what pg_checksums leaves, and a page under its key */
    REPAIR_FOUND,     /* exactly one value makes it a page */
    REPAIR_AMBIGUOUS, /* several values do */
    REPAIR_NO_PAGE,   /* none does, or it is damaged in another way */
};

struct search {
    struct tde_cipher *cipher;
    struct tde_raw_xts *raw;
    struct tde_identity id;
    uint64_t first;
    uint64_t newest; /* no page has a newer LSN, as one number */
    uint8_t *trials; /* VALUES AES blocks */
};

struct candidates {
    unsigned count;
    unsigned fitting; /* those whose data checksum is right as well */
    uint16_t value;
    uint16_t fitting_value;
};

/* PageXLogRecPtr: two native words, the high one first. */
static uint64_t lsn_of(const uint8_t *page)
{
    uint32_t words[2];

    memcpy(words, page, sizeof words);
    return (uint64_t)words[0] << 32 | words[1];
}

/* Whether only flags that exist are set: looked at first, it leaves 8 of the 65,536 trials. */
static bool has_flags(const uint8_t *trial, const uint8_t *mask)
{
    uint16_t flags;
    uint16_t masked;

    memcpy(&flags, trial + FLAGS_AT, sizeof flags);
    memcpy(&masked, mask + FLAGS_AT, sizeof masked);
    return ((flags ^ masked) & ~FLAGS_VALID) == 0;
}

/* Collect the values that make PLAIN, decrypted behind its first AES block, a page. */
static void collect(const struct search *search, const uint8_t *mask, uint64_t number,
                    uint8_t *plain, bool check_lsn, struct candidates *found)
{
    memset(found, 0, sizeof *found);
    for (unsigned value = 0; value < VALUES; value++) {
        const uint8_t *trial = search->trials + value * TDE_CIPHER_BLOCK;

        if (!has_flags(trial, mask))
            continue;
        for (unsigned i = 0; i < TDE_CIPHER_BLOCK; i++)
            plain[i] = trial[i] ^ mask[i];
        if (!tde_format_page_has_header(plain) || (check_lsn && lsn_of(plain) > search->newest))
            continue;
        found->count++;
        found->value = (uint16_t)value;
        if (tde_format_page_has_checksum(plain, (uint32_t)number)) {
            found->fitting++;
            found->fitting_value = (uint16_t)value;
        }
    }
}

static void put_value(uint8_t *page, uint16_t value)
{
    memcpy(page + CHECKSUM_AT, &value, sizeof value);
}

/* A verdict and, when FOUND, the value of bytes 8 and 9.  -1: OpenSSL refused. */
static int search_page(const struct search *search, const uint8_t *stored, uint64_t number,
                       uint8_t *plain, uint16_t *value)
{
    struct candidates found;
    uint8_t tweak[TDE_TWEAK_SIZE];
    uint8_t mask[TDE_CIPHER_BLOCK];

    if (tde_crypto_is_zero(stored, TDE_BLOCK_SIZE))
        return REPAIR_ZERO;
    if (tde_format_tweak(&search->id, number, tweak) != 0 ||
        tde_crypto_decrypt(search->cipher, tweak, stored, plain, TDE_BLOCK_SIZE) != 0 ||
        tde_crypto_raw_xts_mask(search->raw, tweak, mask) != 0)
        return -1;
    if (!tde_format_page_has_checksum(stored, (uint32_t)number))
        return tde_format_page_has_header(plain) ? REPAIR_UNTOUCHED : REPAIR_NO_PAGE;
    for (unsigned trial = 0; trial < VALUES; trial++) {
        uint8_t *to = search->trials + trial * TDE_CIPHER_BLOCK;

        memcpy(to, stored, TDE_CIPHER_BLOCK);
        put_value(to, (uint16_t)trial);
        for (unsigned i = 0; i < TDE_CIPHER_BLOCK; i++)
            to[i] ^= mask[i];
    }
    if (tde_crypto_raw_xts_decrypt(search->raw, search->trials, VALUES * TDE_CIPHER_BLOCK) != 0)
        return -1;
    collect(search, mask, number, plain, true, &found);
    if (found.count == 0) /* After pg_resetwal pages may be newer than the WAL. */
        collect(search, mask, number, plain, false, &found);
    *value = found.count == 1 ? found.value : found.fitting_value;
    if (found.count == 0)
        return REPAIR_NO_PAGE;
    return found.count == 1 || found.fitting == 1 ? REPAIR_FOUND : REPAIR_AMBIGUOUS;
}

static int search_pages(struct search *search, const uint8_t *stored, size_t count,
                        uint8_t *results)
{
    uint8_t plain[TDE_BLOCK_SIZE] __attribute__((aligned(64)));
    int result = 0;

    for (size_t i = 0; i < count && result == 0; i++) {
        uint16_t value = 0;
        int verdict = search_page(search, stored + i * TDE_BLOCK_SIZE, search->first + i, plain,
                                  &value);

        results[i * 3] = (uint8_t)verdict;
        memcpy(results + i * 3 + 1, &value, sizeof value);
        result = verdict < 0 ? -1 : 0;
    }
    tde_crypto_wipe(plain, sizeof plain);
    tde_crypto_wipe(search->trials, VALUES * TDE_CIPHER_BLOCK);
    return result;
}

/* (algorithm, key, stored, identity, first block, newest LSN) -> 3 bytes for each block */
PyObject *tde_python_find_overwritten(PyObject *module, PyObject *args)
{
    const struct tde_python_state *state = PyModule_GetState(module);
    struct search search = {0};
    Py_buffer key;
    Py_buffer stored;
    PyObject *results = NULL;
    int algorithm;
    int failed = -1;

    if (!PyArg_ParseTuple(args, "iy*y*O&O&O&:find_overwritten", &algorithm, &key, &stored,
                          tde_python_convert_identity, &search.id, tde_python_convert_uint64,
                          &search.first, tde_python_convert_uint64, &search.newest))
        return NULL;
    if ((size_t)key.len == tde_crypto_key_size(algorithm)) {
        search.cipher = tde_crypto_cipher_new(algorithm, key.buf);
        search.raw = tde_crypto_raw_xts_new(algorithm, key.buf);
        search.trials = malloc(VALUES * TDE_CIPHER_BLOCK);
    }
    if (stored.len % TDE_BLOCK_SIZE == 0 && search.cipher != NULL && search.raw != NULL &&
        search.trials != NULL)
        results = PyBytes_FromStringAndSize(NULL, stored.len / TDE_BLOCK_SIZE * 3);
    if (results != NULL) {
        uint8_t *to = (uint8_t *)PyBytes_AS_STRING(results);

        Py_BEGIN_ALLOW_THREADS
        failed = search_pages(&search, stored.buf, (size_t)stored.len / TDE_BLOCK_SIZE, to);
        Py_END_ALLOW_THREADS
    }
    tde_crypto_cipher_free(search.cipher);
    tde_crypto_raw_xts_free(search.raw);
    free(search.trials);
    PyBuffer_Release(&key);
    PyBuffer_Release(&stored);
    if (failed != 0) {
        Py_CLEAR(results);
        if (!PyErr_Occurred())
            PyErr_SetString(state->page_error, "the key, the blocks or their place cannot be used");
    }
    return results;
}

int tde_python_repair_add_constants(PyObject *module)
{
    return PyModule_AddIntConstant(module, "REPAIR_ZERO", REPAIR_ZERO) == 0 &&
                   PyModule_AddIntConstant(module, "REPAIR_UNTOUCHED", REPAIR_UNTOUCHED) == 0 &&
                   PyModule_AddIntConstant(module, "REPAIR_FOUND", REPAIR_FOUND) == 0 &&
                   PyModule_AddIntConstant(module, "REPAIR_AMBIGUOUS", REPAIR_AMBIGUOUS) == 0 &&
                   PyModule_AddIntConstant(module, "REPAIR_NO_PAGE", REPAIR_NO_PAGE) == 0
               ? 0
               : -1;
}
