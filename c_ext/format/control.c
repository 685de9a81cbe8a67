/*
 * format/control.c - hide the state "shut down" of pg_control from programs without tde, and turn
 * data checksums on.
 *
 * ControlFileData (catalog/pg_control.h) has grown with every few versions, but its state is at
 * byte 16, its checksum is its last member, and the rest of the file is zeros.  So the checksum
 * is found by its value, and only data checksums need a table of versions.
 */
#include "format/control.h"

#include <string.h>

#include "crypto/cipher.h"
#include "crypto/primitives.h"
#include "format/bytes.h"

/* enum DBState */
#define STATE_SHUT_DOWN 1u
#define STATE_SHUT_DOWN_IN_RECOVERY 2u
#define STATE_IN_PRODUCTION 6u

#define VERSION_AT 8u
#define STATE_AT 16u
#define SMALLEST_CRC_AT 128u /* No version has been that short; skips chance finds at the front. */
#define CRC_STEP 4u

/*
 * How far members are in front of the checksum of the file, by PG_CONTROL_VERSION.  loblksize, and
 * float8ByVal behind it, show that this is the layout.
 */
struct layout {
    uint32_t version;
    size_t data_checksum_version;
    size_t loblksize;
};

static const struct layout layouts[] = {
    {1300, 36, 44}, /* 15, 16: 32 bytes of nonce are behind data_checksum_version */
    {1700, 36, 44}, /* 17 */
    {1800, 40, 48}, /* 18: and default_char_signedness, padded with the nonce */
    {1905, 40, 52}, /* 19: data_checksum_version_init is in front of data_checksum_version */
};

#define LARGE_OBJECT_BLOCK 2048u /* LOBLKSIZE, of pages of 8 KiB */
#define FLOAT8_BY_VALUE_BEHIND 4u

/* data_checksum_version: PG_DATA_CHECKSUM_OFF and PG_DATA_CHECKSUM_VERSION. */
#define CHECKSUMS_OFF 0u
#define CHECKSUMS_ON 1u

/* The note: at the end of the sector, in the free bytes of every version. */
#define NOTE_AT 480u
#define NOTE_STATE_AT (NOTE_AT + 8u)  /* the true state, 4 bytes big-endian */
#define NOTE_DIGEST_AT (NOTE_AT + 12u) /* the first bytes of SHA-256 of the sector before them */
#define NOTE_DIGEST_SIZE (TDE_CONTROL_SECTOR - NOTE_DIGEST_AT)

static const uint8_t note_magic[8] = {'T', 'D', 'E', 'S', 'T', 'A', 'T', 1};

/* CRC-32C, bit by bit: some hundred bytes, a few times in the life of a server. */
static uint32_t crc_update(uint32_t crc, const uint8_t *data, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        crc ^= data[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (0x82F63B78u & (0u - (crc & 1u)));
    }
    return crc;
}

static uint32_t crc_of(const uint8_t *data, size_t length)
{
    return ~crc_update(0xFFFFFFFFu, data, length);
}

/* In the byte order of the machine, as PostgreSQL writes them. */
static uint32_t load_native(const uint8_t *from)
{
    uint32_t value;

    memcpy(&value, from, sizeof value);
    return value;
}

static void store_native(uint8_t *to, uint32_t value)
{
    memcpy(to, &value, sizeof value);
}

/*
 * Not another CRC-32C: over bytes that hold their own CRC-32C it is the same whatever they are, so
 * it would fit the note of any other moment.
 */
static bool digest_note(const uint8_t sector[TDE_CONTROL_SECTOR], uint8_t to[TDE_DIGEST_SIZE])
{
    return tde_crypto_digest(sector, NOTE_DIGEST_AT, to) == 0;
}

/* Where PostgreSQL's checksum is: it fits what is before it, and zeros follow.  0 when nowhere. */
static size_t find_crc(const uint8_t sector[TDE_CONTROL_SECTOR])
{
    uint32_t crc = crc_update(0xFFFFFFFFu, sector, SMALLEST_CRC_AT);

    for (size_t at = SMALLEST_CRC_AT; at + CRC_STEP <= NOTE_AT; at += CRC_STEP) {
        if (load_native(sector + at) == ~crc &&
            tde_crypto_is_zero(sector + at + CRC_STEP, NOTE_AT - at - CRC_STEP))
            return at;
        crc = crc_update(crc, sector + at, CRC_STEP);
    }
    return 0;
}

static void set_state(uint8_t sector[TDE_CONTROL_SECTOR], size_t crc_at, uint32_t state)
{
    store_native(sector + STATE_AT, state);
    store_native(sector + crc_at, crc_of(sector, crc_at));
}

static bool is_shut_down(uint32_t state)
{
    return state == STATE_SHUT_DOWN || state == STATE_SHUT_DOWN_IN_RECOVERY;
}

bool tde_format_control_hide(uint8_t sector[TDE_CONTROL_SECTOR])
{
    uint32_t state = load_native(sector + STATE_AT);
    uint8_t stored[TDE_CONTROL_SECTOR];
    uint8_t digest[TDE_DIGEST_SIZE];
    size_t crc_at;

    if (!is_shut_down(state) ||
        !tde_crypto_is_zero(sector + NOTE_AT, TDE_CONTROL_SECTOR - NOTE_AT))
        return false;
    crc_at = find_crc(sector);
    if (crc_at == 0)
        return false;
    memcpy(stored, sector, sizeof stored);
    set_state(stored, crc_at, STATE_IN_PRODUCTION);
    memcpy(stored + NOTE_AT, note_magic, sizeof note_magic);
    tde_format_store_be32(stored + NOTE_STATE_AT, state);
    if (!digest_note(stored, digest))
        return false;
    memcpy(stored + NOTE_DIGEST_AT, digest, NOTE_DIGEST_SIZE);
    memcpy(sector, stored, sizeof stored);
    return true;
}

bool tde_format_control_show(uint8_t sector[TDE_CONTROL_SECTOR])
{
    uint32_t state = tde_format_load_be32(sector + NOTE_STATE_AT);
    uint8_t digest[TDE_DIGEST_SIZE];
    size_t crc_at;

    /* A note that does not fit its sector is none: the server then recovers as after a crash. */
    if (memcmp(sector + NOTE_AT, note_magic, sizeof note_magic) != 0 || !is_shut_down(state) ||
        load_native(sector + STATE_AT) != STATE_IN_PRODUCTION || !digest_note(sector, digest) ||
        memcmp(sector + NOTE_DIGEST_AT, digest, NOTE_DIGEST_SIZE) != 0)
        return false;
    crc_at = find_crc(sector);
    if (crc_at == 0)
        return false;
    memset(sector + NOTE_AT, 0, TDE_CONTROL_SECTOR - NOTE_AT);
    set_state(sector, crc_at, state);
    return true;
}

static const struct layout *find_layout(const uint8_t sector[TDE_CONTROL_SECTOR], size_t crc_at)
{
    uint32_t version = load_native(sector + VERSION_AT);

    for (size_t i = 0; i < sizeof layouts / sizeof layouts[0]; i++) {
        const uint8_t *loblksize = sector + crc_at - layouts[i].loblksize;

        if (layouts[i].version == version && load_native(loblksize) == LARGE_OBJECT_BLOCK &&
            load_native(loblksize + FLOAT8_BY_VALUE_BEHIND) <= 1)
            return &layouts[i];
    }
    return NULL;
}

bool tde_format_control_turn_on_checksums(uint8_t sector[TDE_CONTROL_SECTOR])
{
    size_t crc_at = find_crc(sector);
    const struct layout *layout;
    uint32_t checksums;
    size_t at;

    if (crc_at == 0 || !tde_crypto_is_zero(sector + NOTE_AT, TDE_CONTROL_SECTOR - NOTE_AT))
        return false;
    layout = find_layout(sector, crc_at);
    if (layout == NULL)
        return false;
    at = crc_at - layout->data_checksum_version;
    checksums = load_native(sector + at);
    if (checksums != CHECKSUMS_OFF && checksums != CHECKSUMS_ON)
        return false;
    store_native(sector + at, CHECKSUMS_ON);
    store_native(sector + crc_at, crc_of(sector, crc_at));
    return true;
}
