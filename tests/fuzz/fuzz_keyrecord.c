/*
 * fuzz_keyrecord.c - any bytes as a key record (c_ext/format/keyrecord.c).
 *
 * The first byte of the input says what is done with the others: they are the record itself,
 * or changes of a good record, or the fields and the key of a record that is wrapped with the
 * right master key.  Nothing that differs from a good record may unwrap, and what is refused
 * leaves no key behind.
 */
#include <openssl/evp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "crypto/cipher.h"
#include "format/bytes.h"
#include "format/keyrecord.h"

enum { AT_OWNER = 8, AT_ALGORITHM = 9, AT_OID = 12, AT_KEYSTORE = 16, AT_MASTER = 32 };
enum { AT_NONCE = 48, AT_KEY = 64, AT_TAG = 128 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct tde_key_scope scope = {"keystore of fuzz", "master key  fuzz",
                                           "32 bytes are a master key, here "};

static void require(bool holds, const char *what)
{
    if (holds)
        return;
    fprintf(stderr, "%s\n", what);
    abort();
}

/* Wrap KEY into RECORD, whose first 64 bytes are set. */
static void wrap(uint8_t record[TDE_KEYRECORD_SIZE], const uint8_t key[TDE_MAX_KEY_SIZE])
{
    EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();
    int written;
    int ok = EVP_EncryptInit_ex(context, EVP_aes_256_gcm(), NULL, scope.master_key,
                                record + AT_NONCE) == 1 &&
             EVP_EncryptUpdate(context, NULL, &written, record, AT_KEY) == 1 &&
             EVP_EncryptUpdate(context, record + AT_KEY, &written, key, TDE_MAX_KEY_SIZE) == 1 &&
             EVP_EncryptFinal_ex(context, record + AT_KEY, &written) == 1 &&
             EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, TDE_GCM_TAG_SIZE,
                                 record + AT_TAG) == 1;

    EVP_CIPHER_CTX_free(context);
    require(ok, "OpenSSL refused to wrap");
}

static void set_header(uint8_t record[TDE_KEYRECORD_SIZE], uint8_t owner, uint8_t algorithm,
                       uint32_t oid)
{
    memset(record, 0, TDE_KEYRECORD_SIZE);
    memcpy(record, "TDEKEY\0\1", 8);
    record[AT_OWNER] = owner;
    record[AT_ALGORITHM] = algorithm;
    for (int i = 0; i < 4; i++)
        record[AT_OID + i] = (uint8_t)(oid >> (24 - 8 * i));
    memcpy(record + AT_KEYSTORE, scope.keystore, TDE_UUID_SIZE);
    memcpy(record + AT_MASTER, scope.master_key_id, TDE_UUID_SIZE);
    memcpy(record + AT_NONCE, "fuzz's nonce", 12);
}

/* Unwrap a copy on the heap, of exactly this length; true when it was accepted. */
static bool unwraps(const uint8_t *record, size_t length, int owner, uint32_t oid,
                    struct tde_key *key)
{
    static const struct tde_key none;
    uint8_t *exact = malloc(length > 0 ? length : 1);
    const char *problem;

    require(exact != NULL, "no memory");
    memcpy(exact, record, length);
    memset(key, 0xAA, sizeof *key);
    problem = tde_format_keyrecord_unwrap(exact, length, &scope, (enum tde_key_owner)owner, oid,
                                          key);
    free(exact);
    if (problem != NULL)
        require(key->algorithm == 0 && memcmp(key->bytes, none.bytes, sizeof key->bytes) == 0,
                "a record was refused and left a key behind");
    return problem == NULL;
}

/* Pairs of an offset and what is added at it, to a good record of tablespace 1663. */
static void try_changes(const uint8_t *data, size_t size)
{
    uint8_t good[TDE_KEYRECORD_SIZE];
    uint8_t changed[TDE_KEYRECORD_SIZE];
    uint8_t key[TDE_MAX_KEY_SIZE];
    struct tde_key got;

    for (size_t i = 0; i < sizeof key; i++)
        key[i] = (uint8_t)(i + 1);
    set_header(good, TDE_OWNER_TABLESPACE, TDE_ALGORITHM_AES256, 1663);
    wrap(good, key);
    memcpy(changed, good, sizeof good);
    for (size_t i = 0; i + 1 < size; i += 2)
        changed[data[i] % sizeof changed] ^= data[i + 1];
    if (!unwraps(changed, sizeof changed, TDE_OWNER_TABLESPACE, 1663, &got)) {
        require(memcmp(changed, good, sizeof good) != 0, "a good record was refused");
        return;
    }
    require(memcmp(changed, good, sizeof good) == 0, "a changed record was accepted");
    require(memcmp(got.bytes, key, sizeof key) == 0, "another key came out");
}

/* The rules of docs/format.md about what a record may hold, written a second time. */
static bool is_allowed(int owner, int algorithm, const uint8_t key[TDE_MAX_KEY_SIZE])
{
    size_t used = algorithm == TDE_ALGORITHM_AES128   ? 32
                  : algorithm == TDE_ALGORITHM_AES256 ? 64
                                                      : 0;

    if (algorithm > TDE_ALGORITHM_AES256 ||
        (algorithm == TDE_ALGORITHM_PLAINTEXT && owner != TDE_OWNER_TABLESPACE &&
         owner != TDE_OWNER_NAMED))
        return false;
    if (used > 0 && memcmp(key, key + used / 2, used / 2) == 0)
        return false;
    for (size_t i = used; i < TDE_MAX_KEY_SIZE; i++)
        if (key[i] != 0)
            return false;
    return true;
}

/* Owner, algorithm, OID, and a key: wrapped as the keystore's owner could. */
static void try_content(const uint8_t *data, size_t size)
{
    uint8_t record[TDE_KEYRECORD_SIZE];
    uint8_t key[TDE_MAX_KEY_SIZE] = {0};
    struct tde_key derived;
    struct tde_key got;
    uint32_t oid;

    if (size < 6)
        return;
    oid = tde_format_load_be32(data + 2);
    memcpy(key, data + 6, size - 6 < sizeof key ? size - 6 : sizeof key);
    set_header(record, data[0], data[1], oid);
    wrap(record, key);
    bool accepted = unwraps(record, sizeof record, data[0], oid, &got);
    require(accepted == is_allowed(data[0], data[1], key), "the rules disagree");
    if (!accepted)
        return;
    require(got.algorithm == data[1] && memcmp(got.bytes, key, sizeof key) == 0, "another key");
    require(!unwraps(record, sizeof record, data[0], oid + 1, &got), "the key of another OID");
    require(!unwraps(record, sizeof record, data[0] + 1, oid, &got), "the key of another owner");
    got.algorithm = data[1];
    memcpy(got.bytes, key, sizeof key);
    require((tde_format_keyrecord_derive(&got, oid, &derived) == 0) == (data[1] != 0),
            "a derived key");
    require(data[1] == 0 || memcmp(derived.bytes, key, sizeof key) != 0, "derived from nothing");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct tde_key key;

    if (size == 0)
        return 0;
    switch (data[0] % 3) {
    case 0:
        require(!unwraps(data + 1, size - 1, TDE_OWNER_TABLESPACE, 1663, &key),
                "a record came from nowhere");
        break;
    case 1:
        try_changes(data + 1, size - 1);
        break;
    default:
        try_content(data + 1, size - 1);
        break;
    }
    return 0;
}
