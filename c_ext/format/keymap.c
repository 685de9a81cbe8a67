/*
 * format/keymap.c - see format/keymap.h.
 */
#include "format/keymap.h"

#include <string.h>

#include "crypto/cipher.h"
#include "crypto/primitives.h"
#include "format/bytes.h"
#include "format/constants.h"

/* Offsets in the header and in an entry; both end with a code. */
enum {
    HEADER_KEYSTORE = 16,
    ENTRY_OID = 0,
    ENTRY_KIND = 4,
    ENTRY_ZEROS = 5,
    ENTRY_KEY_ID = 16,
    AT_CODE = 32,
};

static const uint8_t magic[8] = {'T', 'D', 'E', 'M', 'A', 'P', 0, 1};
static const char location_prefix[] = "tde-";

int tde_format_keymap_key(const struct tde_key *wal, uint8_t key[TDE_KEYMAP_KEY_SIZE])
{
    static const char label[] = "tde key map"; /* with its terminating zero, as all labels */
    size_t size = tde_crypto_key_size(wal->algorithm);

    if (size == 0)
        return -1;
    return tde_crypto_derive(wal->bytes, size, (const uint8_t *)label, sizeof label, key,
                             TDE_KEYMAP_KEY_SIZE);
}

int tde_format_keymap_begin(const uint8_t keystore[TDE_UUID_SIZE],
                            const uint8_t key[TDE_KEYMAP_KEY_SIZE], uint8_t to[TDE_KEYMAP_UNIT])
{
    struct tde_hmac *hmac = tde_crypto_hmac_new(key, TDE_KEYMAP_KEY_SIZE);
    int result = -1;

    memset(to, 0, TDE_KEYMAP_UNIT);
    memcpy(to, magic, sizeof magic);
    memcpy(to + HEADER_KEYSTORE, keystore, TDE_UUID_SIZE);
    if (hmac != NULL)
        result = tde_crypto_hmac(hmac, NULL, 0, to, AT_CODE, to + AT_CODE);
    tde_crypto_hmac_free(hmac);
    return result;
}

int tde_format_keymap_append(const uint8_t last[TDE_KEYMAP_UNIT],
                             const uint8_t key[TDE_KEYMAP_KEY_SIZE],
                             const struct tde_keymap_entry *entry, uint8_t to[TDE_KEYMAP_UNIT])
{
    struct tde_hmac *hmac = tde_crypto_hmac_new(key, TDE_KEYMAP_KEY_SIZE);
    int result = -1;

    memset(to, 0, TDE_KEYMAP_UNIT);
    tde_format_store_be32(to + ENTRY_OID, entry->oid);
    to[ENTRY_KIND] = (uint8_t)entry->kind;
    if (tde_format_keymap_has_id(entry))
        memcpy(to + ENTRY_KEY_ID, entry->key_id, TDE_UUID_SIZE);
    if (hmac != NULL)
        result = tde_crypto_hmac(hmac, last + AT_CODE, TDE_DIGEST_SIZE, to, AT_CODE,
                                 to + AT_CODE);
    tde_crypto_hmac_free(hmac);
    return result;
}

/* An entry that is authentic was written by tde, so this only catches those of later versions. */
static bool is_known(const uint8_t *entry)
{
    uint8_t kind = entry[ENTRY_KIND];

    return kind >= TDE_KEYMAP_DERIVED && kind <= TDE_KEYMAP_WAL_READ &&
           (tde_format_load_be32(entry + ENTRY_OID) == 0) == (kind >= TDE_KEYMAP_WAL) &&
           tde_crypto_is_zero(entry + ENTRY_ZEROS, ENTRY_KEY_ID - ENTRY_ZEROS) &&
           (kind >= TDE_KEYMAP_NAMED || tde_crypto_is_zero(entry + ENTRY_KEY_ID, TDE_UUID_SIZE));
}

bool tde_format_keymap_is_of(const uint8_t *map, size_t length,
                             const uint8_t keystore[TDE_UUID_SIZE])
{
    return length >= TDE_KEYMAP_UNIT && memcmp(map + HEADER_KEYSTORE, keystore, TDE_UUID_SIZE) == 0;
}

static const char *check_header(const uint8_t *map, size_t length,
                                const uint8_t keystore[TDE_UUID_SIZE], struct tde_hmac *hmac)
{
    uint8_t code[TDE_DIGEST_SIZE];

    if (length < TDE_KEYMAP_UNIT)
        return "it is shorter than its header";
    if (memcmp(map, magic, sizeof magic - 1) != 0)
        return "it is not a key map";
    if (map[sizeof magic - 1] != magic[sizeof magic - 1])
        return "its format version is not known to this version of tde";
    if (!tde_format_keymap_is_of(map, length, keystore))
        return "it belongs to another keystore";
    if (tde_crypto_hmac(hmac, NULL, 0, map, AT_CODE, code) != 0)
        return "it could not be authenticated";
    if (!tde_crypto_equal(code, map + AT_CODE, sizeof code))
        return "it is damaged or was altered";
    return NULL;
}

static const char *check_entries(const uint8_t *map, size_t length, struct tde_hmac *hmac,
                                 size_t *usable)
{
    uint8_t code[TDE_DIGEST_SIZE];

    for (*usable = TDE_KEYMAP_UNIT; length - *usable >= TDE_KEYMAP_UNIT;
         *usable += TDE_KEYMAP_UNIT) {
        const uint8_t *entry = map + *usable;

        if (tde_crypto_is_zero(entry, length - *usable))
            return NULL; /* The file had become longer, but nothing was in it yet. */
        if (tde_crypto_hmac(hmac, entry - TDE_DIGEST_SIZE, TDE_DIGEST_SIZE, entry, AT_CODE,
                            code) != 0)
            return "it could not be authenticated";
        if (!tde_crypto_equal(code, entry + AT_CODE, sizeof code))
            return "it is damaged or was altered";
        if (!is_known(entry))
            return "it has an entry that is not known to this version of tde";
    }
    return NULL;
}

const char *tde_format_keymap_check(const uint8_t *map, size_t length,
                                    const uint8_t keystore[TDE_UUID_SIZE],
                                    const uint8_t key[TDE_KEYMAP_KEY_SIZE], size_t *usable)
{
    struct tde_hmac *hmac = tde_crypto_hmac_new(key, TDE_KEYMAP_KEY_SIZE);
    const char *problem = "there is no memory to authenticate it";

    *usable = 0;
    if (hmac != NULL)
        problem = check_header(map, length, keystore, hmac);
    if (problem == NULL)
        problem = check_entries(map, length, hmac, usable);
    if (problem != NULL)
        *usable = 0;
    tde_crypto_hmac_free(hmac);
    return problem;
}

void tde_format_keymap_entry(const uint8_t *map, size_t number, struct tde_keymap_entry *entry)
{
    const uint8_t *at = map + (number + 1) * TDE_KEYMAP_UNIT;

    entry->oid = tde_format_load_be32(at + ENTRY_OID);
    entry->kind = (enum tde_keymap_kind)at[ENTRY_KIND];
    memcpy(entry->key_id, at + ENTRY_KEY_ID, TDE_UUID_SIZE);
}

size_t tde_format_keymap_count(size_t usable)
{
    return usable / TDE_KEYMAP_UNIT - 1;
}

bool tde_format_keymap_built_in(uint32_t oid, struct tde_keymap_entry *entry)
{
    *entry = (struct tde_keymap_entry){.oid = oid, .kind = TDE_KEYMAP_RECORD};
    return oid == TDE_DEFAULT_TABLESPACE || oid == TDE_GLOBAL_TABLESPACE;
}

bool tde_format_keymap_find(const uint8_t *map, size_t usable, uint32_t oid,
                            struct tde_keymap_entry *entry)
{
    for (size_t number = tde_format_keymap_count(usable); number-- > 0;) {
        tde_format_keymap_entry(map, number, entry);
        if (entry->oid == oid && entry->kind != TDE_KEYMAP_WAL_READ)
            return true;
    }
    memset(entry, 0, sizeof *entry);
    return false;
}

/* Whether both maps give a tablespace a key, and not the same one. */
static bool differ(const uint8_t *one, size_t one_usable, const uint8_t *other,
                   size_t other_usable, uint32_t oid)
{
    struct tde_keymap_entry here;
    struct tde_keymap_entry there;

    if ((!tde_format_keymap_find(one, one_usable, oid, &here) &&
         !tde_format_keymap_built_in(oid, &here)) ||
        (!tde_format_keymap_find(other, other_usable, oid, &there) &&
         !tde_format_keymap_built_in(oid, &there)))
        return false;
    if (tde_format_keymap_has_id(&here) && tde_format_keymap_has_id(&there))
        return memcmp(here.key_id, there.key_id, sizeof here.key_id) != 0;
    return here.kind != there.kind;
}

uint32_t tde_format_keymap_conflict(const uint8_t *one, size_t one_usable, const uint8_t *other,
                                    size_t other_usable)
{
    static const uint32_t built_in[] = {TDE_DEFAULT_TABLESPACE, TDE_GLOBAL_TABLESPACE};

    for (size_t i = 0; i < sizeof built_in / sizeof built_in[0]; i++)
        if (differ(one, one_usable, other, other_usable, built_in[i]))
            return built_in[i];
    for (size_t number = tde_format_keymap_count(one_usable); number-- > 0;) {
        struct tde_keymap_entry entry;

        tde_format_keymap_entry(one, number, &entry);
        if (!tde_format_keymap_is_of_wal(&entry) &&
            differ(one, one_usable, other, other_usable, entry.oid))
            return entry.oid;
    }
    return 0;
}

size_t tde_format_keymap_length(const uint8_t *map, size_t length)
{
    size_t usable = TDE_KEYMAP_UNIT;

    if (length < TDE_KEYMAP_UNIT || memcmp(map, magic, sizeof magic) != 0)
        return 0;
    while (length - usable >= TDE_KEYMAP_UNIT &&
           !tde_crypto_is_zero(map + usable, TDE_KEYMAP_UNIT))
        usable += TDE_KEYMAP_UNIT;
    return usable;
}

bool tde_format_keymap_same_keystore(const uint8_t *one, const uint8_t *other)
{
    return memcmp(one + HEADER_KEYSTORE, other + HEADER_KEYSTORE, TDE_UUID_SIZE) == 0;
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool tde_format_keymap_parse_hex(const char *text, uint8_t key_id[TDE_UUID_SIZE])
{
    for (size_t i = 0; i < TDE_UUID_SIZE; i++) {
        int high = hex_value(text[2 * i]);
        int low = high < 0 ? -1 : hex_value(text[2 * i + 1]);

        if (low < 0)
            return false;
        key_id[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

/* LENGTH characters of a component. */
static bool parse_component(const char *text, size_t length, uint8_t key_id[TDE_UUID_SIZE])
{
    size_t prefix = sizeof location_prefix - 1;

    return length == prefix + 2 * TDE_UUID_SIZE && memcmp(text, location_prefix, prefix) == 0 &&
           tde_format_keymap_parse_hex(text + prefix, key_id);
}

bool tde_format_keymap_parse_location(const char *location, uint8_t key_id[TDE_UUID_SIZE])
{
    uint8_t parsed[TDE_UUID_SIZE];
    bool found = false;

    while (*location != '\0') {
        size_t length = strcspn(location, "/");

        if (parse_component(location, length, parsed)) {
            memcpy(key_id, parsed, sizeof parsed);
            found = true;
        }
        location += length;
        location += strspn(location, "/");
    }
    return found;
}

void tde_format_keymap_hex(const uint8_t key_id[TDE_UUID_SIZE], char to[TDE_KEYMAP_HEX])
{
    static const char digits[] = "0123456789abcdef";

    for (size_t i = 0; i < TDE_UUID_SIZE; i++) {
        to[2 * i] = digits[key_id[i] >> 4];
        to[2 * i + 1] = digits[key_id[i] & 15];
    }
    to[2 * TDE_UUID_SIZE] = '\0';
}

bool tde_format_keymap_is_older(const char *marker)
{
    return strstr(marker, "\"version\": 1,") != NULL;
}
