/*
 * format/message.h - how the key of an open keystore reaches a server that runs already.
 *
 * Pure: the caller reads the file.  The bytes are those of docs/format.md, section 12;
 * tde/keystore/message.py is the same in Python.
 */
#ifndef TDE_FORMAT_MESSAGE_H
#define TDE_FORMAT_MESSAGE_H

#include <stddef.h>
#include <stdint.h>

#include "crypto/exchange.h"
#include "format/keyrecord.h"

#define TDE_MESSAGE_KEY_SIZE 32u
#define TDE_MESSAGE_HEADER 80u
#define TDE_MESSAGE_PAYLOAD (TDE_UUID_SIZE + TDE_GCM_KEY_SIZE + TDE_DIGEST_SIZE)
#define TDE_MESSAGE_SIZE (TDE_MESSAGE_HEADER + TDE_MESSAGE_PAYLOAD + TDE_GCM_TAG_SIZE)

/* The key of the sender's code, derived from that of the WAL.  0 or -1. */
int tde_format_message_key(const struct tde_key *wal, uint8_t key[TDE_MESSAGE_KEY_SIZE]);

/* What a server needs to open a message, and what its master key must belong to. */
struct tde_message_reader {
    struct tde_exchange_key exchange;
    uint8_t key[TDE_MESSAGE_KEY_SIZE];
    uint8_t keystore[TDE_UUID_SIZE];
};

/*
 * The code that proves that the public key of READER is that of a process with the keys: programs
 * of the server's user can write what it publishes.  0 or -1.
 */
int tde_format_message_prove(const struct tde_message_reader *reader, uint64_t pid,
                             uint64_t start_time, uint8_t code[TDE_DIGEST_SIZE]);

/* The number of a message, which is not authentic yet; 0 when it is none. */
uint64_t tde_format_message_number(const uint8_t *data, size_t length);

enum tde_message_kind {
    TDE_MESSAGE_MASTER_KEY = 1, /* its id, and itself */
    TDE_MESSAGE_WAL_KEY = 2,    /* the id of a key of WAL that is in the keystore, and zeros */
    TDE_MESSAGE_WITHHOLD = 3,   /* zeros, and at the end of the id an OID; 0 closes the keystore */
    TDE_MESSAGE_GIVE = 4,       /* the same the other way round */
};

struct tde_message {
    enum tde_message_kind kind;
    uint8_t key_id[TDE_UUID_SIZE];
    uint32_t oid; /* the last bytes of the id */
    uint8_t key[TDE_GCM_KEY_SIZE];
};

/* What is wrong with a message; NULL when *MESSAGE was filled.  The text names no secret. */
const char *tde_format_message_open(const uint8_t *data, size_t length,
                                    const struct tde_message_reader *reader,
                                    struct tde_message *message);

#endif
