/*
 * format/keyrecord.c - check and unwrap one key record.
 */
#include "format/keyrecord.h"

#include "crypto/cipher.h"
#include "crypto/primitives.h"

#include <string.h>

/* Offsets of the record's fields; everything before the ciphertext is authenticated. */
enum {
    AT_MAGIC = 0,
    AT_OWNER = 8,
    AT_ALGORITHM = 9,
    AT_OID = 12,
    AT_KEYSTORE = 16,
    AT_MASTER_KEY_ID = 32,
    AT_NONCE = 48,
    AT_CIPHERTEXT = 64,
    AT_TAG = 128,
};

/* The last byte is the version of the format. */
static const uint8_t magic[8] = {'T', 'D', 'E', 'K', 'E', 'Y', 0, 1};

uint32_t tde_format_load_be32(const uint8_t *from)
{
    return (uint32_t)from[0] << 24 | (uint32_t)from[1] << 16 | (uint32_t)from[2] << 8 | from[3];
}

/*
 * These checks only choose a better message: every one of the fields is bound by the
 * record's tag, so a record that lies about them does not unwrap.
 */
static const char *check_header(const uint8_t *record, const struct tde_key_scope *scope,
                                enum tde_key_owner owner, uint32_t oid)
{
    if (memcmp(record + AT_MAGIC, magic, sizeof magic - 1) != 0)
        return "it is not a tde key record";
    if (record[AT_MAGIC + 7] != magic[7])
        return "its format version is not known to this version of tde";
    if (memcmp(record + AT_KEYSTORE, scope->keystore, TDE_UUID_SIZE) != 0)
        return "it belongs to another keystore";
    if (memcmp(record + AT_MASTER_KEY_ID, scope->master_key_id, TDE_UUID_SIZE) != 0)
        return "it is wrapped with another master key than the one that is open";
    if (record[AT_OWNER] != owner || tde_format_load_be32(record + AT_OID) != oid)
        return "it is the key of another owner";
    return NULL;
}

static const char *check_key(const uint8_t *key, int algorithm)
{
    size_t half = tde_crypto_key_size(algorithm) / 2;

    if (algorithm != TDE_ALGORITHM_PLAINTEXT && half == 0)
        return "its algorithm is not known to this version of tde";
    if (half != 0 && memcmp(key, key + half, half) == 0)
        return "the two halves of its key are equal";
    if (!tde_crypto_is_zero(key + 2 * half, TDE_MAX_KEY_SIZE - 2 * half))
        return "its padding is not zero";
    return NULL;
}

const char *tde_format_keyrecord_unwrap(const uint8_t *record, size_t length,
                                        const struct tde_key_scope *scope, enum tde_key_owner owner,
                                        uint32_t oid, struct tde_key *key)
{
    const char *problem;

    memset(key, 0, sizeof *key);
    if (length != TDE_KEYRECORD_SIZE)
        return "its length is not that of a key record";
    problem = check_header(record, scope, owner, oid);
    if (problem != NULL)
        return problem;
    if (tde_crypto_gcm_decrypt(scope->master_key, record + AT_NONCE, record, AT_CIPHERTEXT,
                               record + AT_CIPHERTEXT, TDE_MAX_KEY_SIZE, record + AT_TAG,
                               key->bytes) != 0)
        return "it is damaged or was altered";
    key->algorithm = record[AT_ALGORITHM];
    problem = check_key(key->bytes, key->algorithm);
    if (problem == NULL && owner != TDE_OWNER_TABLESPACE &&
        key->algorithm == TDE_ALGORITHM_PLAINTEXT)
        problem = "only a tablespace of its own can have a plaintext entry";
    if (problem != NULL)
        tde_crypto_wipe(key, sizeof *key);
    return problem;
}

int tde_format_keyrecord_derive(const struct tde_key *base, uint32_t oid, struct tde_key *key)
{
    static const char label[] = "tde tablespace";
    size_t size = tde_crypto_key_size(base->algorithm);
    uint8_t info[sizeof label + 4];

    memset(key, 0, sizeof *key);
    if (size == 0)
        return -1;
    /* The label's terminating zero separates it from the OID. */
    memcpy(info, label, sizeof label);
    for (size_t i = 0; i < 4; i++)
        info[sizeof label + i] = (uint8_t)(oid >> (24 - 8 * i));
    key->algorithm = base->algorithm;
    return tde_crypto_derive(base->bytes, size, info, sizeof info, key->bytes, size);
}
