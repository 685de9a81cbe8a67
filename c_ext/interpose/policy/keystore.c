/*
 * policy/keystore.c - see policy/keystore.h.
 */
#include "interpose/policy/keystore.h"

#include <stddef.h>
#include <stdint.h>

#include "format/handover.h"
#include "interpose/libc/transfer.h"

/* 32 digits and 4 hyphens, as tde prints it. */
static char uuid[37];

void tde_policy_keystore_note(int fd)
{
    static const char digits[] = "0123456789abcdef";
    uint8_t bytes[TDE_UUID_SIZE];
    char *to = uuid;

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
