/*
 * policy/keystore.c - see policy/keystore.h.
 */
#include "interpose/policy/keystore.h"

#include <stddef.h>
#include <stdint.h>

#include "format/handover.h"
#include "interpose/keys/slots.h"
#include "interpose/libc/transfer.h"

static const char digits[] = "0123456789abcdef";

/* 32 digits and 4 hyphens, as tde prints it. */
static char uuid[37];
static char proof[2 * TDE_WAL_PROOF_SIZE + 1];

static void note_proof(void)
{
    const uint8_t *bytes = tde_keys_scope()->wal_proof;

    for (size_t i = 0; i < TDE_WAL_PROOF_SIZE; i++) {
        proof[2 * i] = digits[bytes[i] >> 4];
        proof[2 * i + 1] = digits[bytes[i] & 15];
    }
}

void tde_policy_keystore_note(int fd)
{
    uint8_t bytes[TDE_UUID_SIZE];
    char *to = uuid;

    note_proof();
    if (tde_libc_read_fully(fd, bytes, sizeof bytes, TDE_HANDOVER_KEYSTORE) != sizeof bytes)
        return;
    for (size_t i = 0; i < sizeof bytes; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10)
            *to++ = '-';
        *to++ = digits[bytes[i] >> 4];
        *to++ = digits[bytes[i] & 15];
    }
}

const char *tde_policy_keystore_uuid(void)
{
    return uuid;
}

const char *tde_policy_keystore_proof(void)
{
    return proof;
}
