/*
 * fuzz_keymap.c - any bytes as a key map, and as the location of a tablespace
 * (c_ext/format/keymap.c).
 *
 * The first byte of the input says what the others are: a map as it is, entries of which a good
 * map is made, the same with a byte of the map changed, or a location.
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "crypto/primitives.h"
#include "format/bytes.h"
#include "format/keymap.h"

#define INPUT_ENTRY 21u /* kind, OID, key id */
#define MOST_ENTRIES 32u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const uint8_t keystore[TDE_UUID_SIZE] = "keystore of fuz";
static const uint8_t key[TDE_KEYMAP_KEY_SIZE] = "32 bytes are a key for the map.";

static void require(bool holds, const char *what)
{
    if (holds)
        return;
    fprintf(stderr, "%s\n", what);
    abort();
}

/* Check a copy on the heap, of exactly this length. */
static const char *check(const uint8_t *map, size_t length, size_t *usable)
{
    uint8_t *exact = malloc(length > 0 ? length : 1);
    const char *problem;

    require(exact != NULL, "no memory");
    if (length > 0)
        memcpy(exact, map, length);
    problem = tde_format_keymap_check(exact, length, keystore, key, usable);
    free(exact);
    require(problem != NULL || (*usable >= TDE_KEYMAP_UNIT && *usable <= length &&
                                *usable % TDE_KEYMAP_UNIT == 0),
            "a map ends where no entry does");
    return problem;
}

/* The map of the entries in DATA; false when one is of a kind that does not exist. */
static bool make_map(const uint8_t *data, size_t size, uint8_t *map, size_t *length)
{
    bool known = true;

    require(tde_format_keymap_begin(keystore, key, map) == 0, "no header");
    *length = TDE_KEYMAP_UNIT;
    for (; size >= INPUT_ENTRY && *length < (MOST_ENTRIES + 1) * TDE_KEYMAP_UNIT;
         data += INPUT_ENTRY, size -= INPUT_ENTRY) {
        struct tde_keymap_entry entry = {tde_format_load_be32(data + 1),
                                         (enum tde_keymap_kind)data[0], {0}};

        memcpy(entry.key_id, data + 5, TDE_UUID_SIZE);
        known = known && entry.oid != 0 && data[0] >= 1 && data[0] <= 4;
        require(tde_format_keymap_append(map + *length - TDE_KEYMAP_UNIT, key, &entry,
                                         map + *length) == 0,
                "no entry");
        *length += TDE_KEYMAP_UNIT;
    }
    return known;
}

/* What a program without keys makes of a map: it stays within it, and finds it equal to itself. */
static void try_unchecked(const uint8_t *map, size_t length)
{
    uint8_t *exact = malloc(length > 0 ? length : 1);
    size_t usable;

    require(exact != NULL, "no memory");
    if (length > 0)
        memcpy(exact, map, length);
    usable = tde_format_keymap_length(exact, length);
    require(usable <= length && usable % TDE_KEYMAP_UNIT == 0, "a map ends where no entry does");
    if (usable > 0)
        require(tde_format_keymap_conflict(exact, usable, exact, usable) == 0 &&
                    tde_format_keymap_same_keystore(exact, exact),
                "a map differs from itself");
    free(exact);
}

static void try_entries(const uint8_t *data, size_t size)
{
    static uint8_t map[(MOST_ENTRIES + 2) * TDE_KEYMAP_UNIT];
    struct tde_keymap_entry entry;
    struct tde_keymap_entry last;
    size_t length;
    size_t usable;
    bool known = make_map(data, size, map, &length);

    require((check(map, length, &usable) == NULL) == known, "the rules disagree");
    if (!known)
        return;
    require(usable == length, "a good map was cut");
    require(tde_format_keymap_length(map, length) == length, "a good map is none without a key");
    try_unchecked(map, length);
    require((check(map, length - 1, &usable) == NULL) == (length > TDE_KEYMAP_UNIT),
            "an older map was refused, or half a header accepted");
    for (size_t i = 0; i < tde_format_keymap_count(length); i++) {
        tde_format_keymap_entry(map, i, &entry);
        require(tde_format_keymap_find(map, length, entry.oid, &last), "an entry was lost");
    }
}

static void try_change(const uint8_t *data, size_t size)
{
    static uint8_t map[(MOST_ENTRIES + 2) * TDE_KEYMAP_UNIT];
    size_t length;
    size_t usable;

    if (size < 2 || !make_map(data + 2, size - 2, map, &length) || data[1] == 0)
        return;
    map[data[0] % length] ^= data[1];
    require(check(map, length, &usable) != NULL, "a changed map was accepted");
}

static void try_location(const uint8_t *data, size_t size)
{
    char *location = malloc(size + 1);
    uint8_t id[TDE_UUID_SIZE];
    char text[TDE_KEYMAP_HEX];

    require(location != NULL, "no memory");
    memcpy(location, data, size);
    location[size] = '\0';
    if (tde_format_keymap_parse_location(location, id)) {
        tde_format_keymap_hex(id, text);
        require(strstr(location, text) != NULL, "the id is not in the location");
    }
    free(location);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t usable;

    if (size == 0)
        return 0;
    switch (data[0] % 4) {
    case 0:
        require(check(data + 1, size - 1, &usable) != NULL, "a map came from nowhere");
        try_unchecked(data + 1, size - 1);
        break;
    case 1:
        try_entries(data + 1, size - 1);
        break;
    case 2:
        try_change(data + 1, size - 1);
        break;
    default:
        try_location(data + 1, size - 1);
        break;
    }
    return 0;
}
