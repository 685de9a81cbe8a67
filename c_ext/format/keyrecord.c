/*
 * format/keyrecord.c - check and unwrap one key record.
 */
#include "format/keyrecord.h"

#include "crypto/cipher.h"
#include "crypto/primitives.h"
#include "format/bytes.h"

#include <string.h>

/* Offsets of the fields that both versions have; everything before the key is authenticated. */
enum {
    AT_MAGIC = 0,
    AT_VERSION = 7,
    AT_OWNER = 8,
    AT_ALGORITHM = 9,
    AT_OID = 12,
    AT_KEYSTORE = 16,
    AT_MASTER_KEY_ID = 32,
    AT_NONCE = 48,
    AT_KEY_ID = 64, /* only in version 2; in version 1 the key is here */
};

static const uint8_t magic[7] = {'T', 'D', 'E', 'K', 'E', 'Y', 0};

/* What is wanted: the key of an owner, or with an id the key that has it. */
struct wanted {
    enum tde_key_owner owner;
    uint32_t oid;
    const uint8_t *key_id;
};

/*
 * These checks only choose a better message: every one of the fields is bound by the
 * record's tag, so a record that lies about them does not unwrap.
 */
static const char *check_header(const uint8_t *record, size_t length,
                                const struct tde_key_scope *scope, const struct wanted *wanted)
{
    uint8_t version = wanted->key_id == NULL ? 1 : 2;

    if (length <= AT_KEY_ID)
        return "its length is not that of a key record";
    if (memcmp(record + AT_MAGIC, magic, sizeof magic) != 0)
        return "it is not a tde key record";
    if (record[AT_VERSION] != 1 && record[AT_VERSION] != 2)
        return "its format version is not known to this version of tde";
    if (length != (record[AT_VERSION] == 1 ? TDE_KEYRECORD_SIZE : TDE_KEYRECORD_NAMED_SIZE))
        return "its length is not that of a key record";
    if (memcmp(record + AT_KEYSTORE, scope->keystore, TDE_UUID_SIZE) != 0)
        return "it belongs to another keystore";
    if (memcmp(record + AT_MASTER_KEY_ID, scope->master_key_id, TDE_UUID_SIZE) != 0)
        return "it is wrapped with another master key than the one that is open";
    if (record[AT_VERSION] != version || record[AT_OWNER] != wanted->owner ||
        tde_format_load_be32(record + AT_OID) != wanted->oid)
        return "it is the key of another owner";
    if (wanted->key_id != NULL && memcmp(record + AT_KEY_ID, wanted->key_id, TDE_UUID_SIZE) != 0)
        return "it is another key than its name says";
    return NULL;
}

const uint8_t *tde_format_keyrecord_keystore(const uint8_t *record, size_t length)
{
    return length < AT_KEYSTORE + TDE_UUID_SIZE ? NULL : record + AT_KEYSTORE;
}

const uint8_t *tde_format_keyrecord_master(const uint8_t *record, size_t length)
{
    return length < AT_MASTER_KEY_ID + TDE_UUID_SIZE ? NULL : record + AT_MASTER_KEY_ID;
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

static const char *unwrap(const uint8_t *record, size_t length, const struct tde_key_scope *scope,
                          const struct wanted *wanted, struct tde_key *key)
{
    size_t header = wanted->key_id == NULL ? AT_KEY_ID : AT_KEY_ID + TDE_UUID_SIZE;
    const char *problem;

    memset(key, 0, sizeof *key);
    problem = check_header(record, length, scope, wanted);
    if (problem != NULL)
        return problem;
    if (tde_crypto_gcm_decrypt(scope->master_key, record + AT_NONCE, record, header,
                               record + header, TDE_MAX_KEY_SIZE,
                               record + header + TDE_MAX_KEY_SIZE, key->bytes) != 0)
        return "it is damaged or was altered";
    key->algorithm = record[AT_ALGORITHM];
    problem = check_key(key->bytes, key->algorithm);
    if (problem == NULL && key->algorithm == TDE_ALGORITHM_PLAINTEXT &&
        wanted->owner != TDE_OWNER_TABLESPACE && wanted->owner != TDE_OWNER_NAMED)
        problem = "only a tablespace of its own can have a plaintext entry";
    if (problem != NULL)
        tde_crypto_wipe(key, sizeof *key);
    return problem;
}

const char *tde_format_keyrecord_unwrap(const uint8_t *record, size_t length,
                                        const struct tde_key_scope *scope, enum tde_key_owner owner,
                                        uint32_t oid, struct tde_key *key)
{
    const struct wanted wanted = {owner, oid, NULL};

    return unwrap(record, length, scope, &wanted, key);
}

const char *tde_format_keyrecord_unwrap_named(const uint8_t *record, size_t length,
                                              const struct tde_key_scope *scope,
                                              enum tde_key_owner owner, uint32_t number,
                                              const uint8_t key_id[TDE_UUID_SIZE],
                                              struct tde_key *key)
{
    const struct wanted wanted = {owner, number, key_id};

    return unwrap(record, length, scope, &wanted, key);
}

int tde_format_keyrecord_wrap_named(const struct tde_key_scope *scope,
                                    const uint8_t key_id[TDE_UUID_SIZE], const struct tde_key *key,
                                    const uint8_t nonce[TDE_GCM_NONCE_SIZE],
                                    uint8_t to[TDE_KEYRECORD_NAMED_SIZE])
{
    const size_t header = AT_KEY_ID + TDE_UUID_SIZE;

    memset(to, 0, TDE_KEYRECORD_NAMED_SIZE);
    memcpy(to + AT_MAGIC, magic, sizeof magic);
    to[AT_VERSION] = 2;
    to[AT_OWNER] = TDE_OWNER_NAMED;
    to[AT_ALGORITHM] = (uint8_t)key->algorithm;
    memcpy(to + AT_KEYSTORE, scope->keystore, TDE_UUID_SIZE);
    memcpy(to + AT_MASTER_KEY_ID, scope->master_key_id, TDE_UUID_SIZE);
    memcpy(to + AT_NONCE, nonce, TDE_GCM_NONCE_SIZE);
    memcpy(to + AT_KEY_ID, key_id, TDE_UUID_SIZE);
    return tde_crypto_gcm_encrypt(scope->master_key, nonce, to, header, key->bytes,
                                  TDE_MAX_KEY_SIZE, to + header, to + header + TDE_MAX_KEY_SIZE);
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
    tde_format_store_be32(info + sizeof label, oid);
    key->algorithm = base->algorithm;
    return tde_crypto_derive(base->bytes, size, info, sizeof info, key->bytes, size);
}

int tde_format_keyrecord_wal_proof(const struct tde_key *wal, uint8_t proof[TDE_WAL_PROOF_SIZE])
{
    static const char label[] = "tde streamed wal"; /* with its terminating zero, as all labels */
    size_t size = tde_crypto_key_size(wal->algorithm);

    if (size == 0)
        return -1;
    return tde_crypto_derive(wal->bytes, size, (const uint8_t *)label, sizeof label, proof,
                             TDE_WAL_PROOF_SIZE);
}
