/*
 * format/message.c - see format/message.h.
 */
#include "format/message.h"

#include <string.h>

#include "crypto/cipher.h"
#include "crypto/primitives.h"
#include "format/bytes.h"

enum {
    AT_VERSION = 7,
    AT_KIND = 8,
    AT_LENGTH = 12,
    AT_NUMBER = 16,
    AT_RESERVED = 24,
    AT_KEYSTORE = 32,
    AT_SENDER = 48,
    AT_KEY_ID = 0, /* from here on in the payload */
    AT_KEY = 16,
    AT_CODE = 48,
};

static const uint8_t magic[7] = {'T', 'D', 'E', 'M', 'S', 'G', 0};
static const char label[] = "tde message"; /* with its terminating zero, as all labels */
/* No message begins so, thus a code of the one kind is never one of the other. */
static const char server_label[] = "tde server";

int tde_format_message_key(const struct tde_key *wal, uint8_t key[TDE_MESSAGE_KEY_SIZE])
{
    size_t size = tde_crypto_key_size(wal->algorithm);

    if (size == 0)
        return -1;
    return tde_crypto_derive(wal->bytes, size, (const uint8_t *)label, sizeof label, key,
                             TDE_MESSAGE_KEY_SIZE);
}

static void store_be64(uint8_t *to, uint64_t value)
{
    tde_format_store_be32(to, (uint32_t)(value >> 32));
    tde_format_store_be32(to + 4, (uint32_t)value);
}

int tde_format_message_prove(const struct tde_message_reader *reader, uint64_t pid,
                             uint64_t start_time, uint8_t code[TDE_DIGEST_SIZE])
{
    struct tde_hmac *hmac = tde_crypto_hmac_new(reader->key, sizeof reader->key);
    uint8_t process[sizeof server_label + TDE_UUID_SIZE + 16];
    uint8_t *at = process;
    int result;

    memcpy(at, server_label, sizeof server_label);
    at += sizeof server_label;
    memcpy(at, reader->keystore, TDE_UUID_SIZE);
    at += TDE_UUID_SIZE;
    store_be64(at, pid);
    store_be64(at + 8, start_time);
    result = hmac == NULL ? -1
                          : tde_crypto_hmac(hmac, process, sizeof process, reader->exchange.open,
                                            TDE_EXCHANGE_SIZE, code);
    tde_crypto_hmac_free(hmac);
    return result;
}

uint64_t tde_format_message_number(const uint8_t *data, size_t length)
{
    if (length != TDE_MESSAGE_SIZE || memcmp(data, magic, sizeof magic) != 0)
        return 0;
    return (uint64_t)tde_format_load_be32(data + AT_NUMBER) << 32 |
           tde_format_load_be32(data + AT_NUMBER + 4);
}

static const char *check_header(const uint8_t *data, size_t length,
                                const struct tde_message_reader *reader)
{
    if (tde_format_message_number(data, length) == 0)
        return "it is not a message of tde";
    uint32_t kind = tde_format_load_be32(data + AT_KIND);

    if (data[AT_VERSION] != 1 ||
        kind < TDE_MESSAGE_MASTER_KEY || kind > TDE_MESSAGE_GIVE ||
        tde_format_load_be32(data + AT_LENGTH) != TDE_MESSAGE_PAYLOAD ||
        !tde_crypto_is_zero(data + AT_RESERVED, AT_KEYSTORE - AT_RESERVED))
        return "it comes from another version of tde";
    if (memcmp(data + AT_KEYSTORE, reader->keystore, TDE_UUID_SIZE) != 0)
        return "it belongs to another keystore";
    return NULL;
}

/*
 * The sender's key pair is used once, so the sealing key is too, and a nonce of zeros never
 * repeats under it.  Both public keys are part of what it is derived from.
 */
static int open_sealed(const uint8_t *data, const struct tde_message_reader *reader,
                       uint8_t payload[TDE_MESSAGE_PAYLOAD])
{
    static const uint8_t nonce[TDE_GCM_NONCE_SIZE];
    uint8_t info[sizeof label + 2 * TDE_EXCHANGE_SIZE];
    const uint8_t *sealed = data + TDE_MESSAGE_HEADER;
    uint8_t secret[TDE_EXCHANGE_SIZE];
    uint8_t key[TDE_GCM_KEY_SIZE];
    int result;

    memcpy(info, label, sizeof label);
    memcpy(info + sizeof label, reader->exchange.open, TDE_EXCHANGE_SIZE);
    memcpy(info + sizeof label + TDE_EXCHANGE_SIZE, data + AT_SENDER, TDE_EXCHANGE_SIZE);
    result = tde_crypto_exchange(&reader->exchange, data + AT_SENDER, secret);
    if (result == 0)
        result = tde_crypto_derive(secret, sizeof secret, info, sizeof info, key, sizeof key);
    if (result == 0)
        result = tde_crypto_gcm_decrypt(key, nonce, data, TDE_MESSAGE_HEADER, sealed,
                                        TDE_MESSAGE_PAYLOAD, sealed + TDE_MESSAGE_PAYLOAD,
                                        payload);
    tde_crypto_wipe(secret, sizeof secret);
    tde_crypto_wipe(key, sizeof key);
    return result;
}

/* Anybody can seal for a public key; only who has opened the keystore has the key of the code. */
static int check_sender(const uint8_t *data, const struct tde_message_reader *reader,
                        const uint8_t payload[TDE_MESSAGE_PAYLOAD])
{
    struct tde_hmac *hmac = tde_crypto_hmac_new(reader->key, sizeof reader->key);
    uint8_t code[TDE_DIGEST_SIZE];
    int result = hmac == NULL ? -1
                              : tde_crypto_hmac(hmac, data, TDE_MESSAGE_HEADER, payload, AT_CODE,
                                                code);

    tde_crypto_hmac_free(hmac);
    return result == 0 && tde_crypto_equal(code, payload + AT_CODE, sizeof code) ? 0 : -1;
}

const char *tde_format_message_open(const uint8_t *data, size_t length,
                                    const struct tde_message_reader *reader,
                                    struct tde_message *message)
{
    const char *problem = check_header(data, length, reader);
    uint8_t payload[TDE_MESSAGE_PAYLOAD];

    if (problem != NULL)
        return problem;
    if (open_sealed(data, reader, payload) != 0)
        return "it is sealed for another server, or was altered";
    if (check_sender(data, reader, payload) == 0) {
        message->kind = (enum tde_message_kind)tde_format_load_be32(data + AT_KIND);
        memcpy(message->key_id, payload + AT_KEY_ID, sizeof message->key_id);
        message->oid = tde_format_load_be32(payload + AT_KEY - 4);
        memcpy(message->key, payload + AT_KEY, sizeof message->key);
    } else {
        problem = "its sender has not opened the keystore";
    }
    tde_crypto_wipe(payload, sizeof payload);
    return problem;
}
