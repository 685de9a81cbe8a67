/*
 * keys/wal.c - see keys/wal.h.
 *
 * Two processes that open a new segment at the same time must write it with the same key, also
 * when the key is changed between the two.  So a change counts for segments that nobody has opened
 * yet: one word, replaced by compare-and-swap, holds both the newest segment that any process has
 * opened and the number of ranges.  Whoever opens a newer one sees all ranges that were there
 * before it, and whoever adds a range begins it behind every segment that was opened before.
 */
#include "interpose/keys/wal.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "crypto/cipher.h"
#include "crypto/primitives.h"
#include "interpose/keys/map.h"
#include "interpose/keys/memory.h"
#include "interpose/keys/records.h"
#include "interpose/keys/slots.h"
#include "interpose/libc/report.h"

#define RANGES 256u      /* keys that one server can write with in its life */
#define COUNT_BITS 20u   /* of the state; above them is the newest segment */
#define COUNT_MASK ((UINT64_C(1) << COUNT_BITS) - 1)
#define SEGMENT_BITS 12u /* a log of 4 GB has at most 4096 segments */

struct range {
    uint64_t from; /* the first segment */
    uint32_t slot; /* of its key */
};

/* Nothing of it is secret.  Shared by all processes of a server. */
struct ranges {
    _Atomic uint64_t state;
    _Atomic int follows_map;
    _Atomic uint8_t named[TDE_KEYS_LATER_WALS]; /* which of the later keys the map names */
    struct range list[RANGES];
};

static struct ranges *ranges;

/* Segments in the order in which they are written; timelines go on where others were left. */
static uint64_t number_of(const struct tde_identity *id)
{
    uint64_t last = (UINT64_C(1) << SEGMENT_BITS) - 1;

    return (uint64_t)id->word[1] << SEGMENT_BITS | (id->word[2] < last ? id->word[2] : last);
}

/* Before any segment is opened. */
static void begin_with(tde_key_index index)
{
    ranges->list[0] = (struct range){0, (uint32_t)index};
    atomic_store(&ranges->state, 1);
    tde_keys_cipher(index); /* Made before the first fork, so that every backend inherits it. */
}

static int add_range(tde_key_index index)
{
    uint64_t state = atomic_load(&ranges->state);
    uint64_t count;

    do {
        count = state & COUNT_MASK;
        if (count == RANGES)
            return -1;
        ranges->list[count] = (struct range){(state >> COUNT_BITS) + 1, (uint32_t)index};
    } while (!atomic_compare_exchange_weak(&ranges->state, &state, state + 1));
    return 0;
}

static const struct range *newest_range(void)
{
    return &ranges->list[(atomic_load(&ranges->state) & COUNT_MASK) - 1];
}

tde_key_index tde_keys_wal_usual(void)
{
    return (tde_key_index)newest_range()->slot;
}

tde_key_index tde_keys_wal_decide(const struct tde_identity *id)
{
    uint64_t state = atomic_load(&ranges->state);
    uint64_t number = number_of(id);
    uint64_t count;

    while (state >> COUNT_BITS < number &&
           !atomic_compare_exchange_weak(&ranges->state, &state,
                                         number << COUNT_BITS | (state & COUNT_MASK)))
        ;
    for (count = state & COUNT_MASK; count-- > 0;)
        if (ranges->list[count].from <= number)
            return (tde_key_index)ranges->list[count].slot;
    return TDE_KEYS_WAL;
}

void tde_keys_wal_newest(uint8_t key_id[TDE_UUID_SIZE], uint64_t *from)
{
    const struct range *newest = newest_range();

    *from = newest->from;
    memset(key_id, 0, TDE_UUID_SIZE);
    if (newest->slot >= TDE_KEYS_LATER_WAL)
        (void)tde_keys_slots_later_wal(newest->slot - TDE_KEYS_LATER_WAL, key_id);
}

/* The slot of a later key; TDE_KEY_NONE when it is not in memory. */
static tde_key_index find(const uint8_t key_id[TDE_UUID_SIZE])
{
    for (uint32_t n = 0; n < TDE_KEYS_LATER_WALS; n++) {
        uint8_t other[TDE_UUID_SIZE];
        tde_key_index index = tde_keys_slots_later_wal(n, other);

        if (index >= 0 && memcmp(other, key_id, sizeof other) == 0)
            return index;
    }
    return TDE_KEY_NONE;
}

/* Load what memory lacks; the slot of the key with the highest number, or TDE_KEY_NONE. */
static tde_key_index load(void)
{
    struct tde_wal_record list[TDE_KEYS_LATER_WALS];
    tde_key_index newest = TDE_KEYS_WAL;
    uint32_t highest = 0;
    size_t count;

    if (tde_keys_records_list_wal(list, TDE_KEYS_LATER_WALS, &count) != 0)
        return TDE_KEY_NONE;
    for (size_t n = 0; n < count; n++) {
        tde_key_index index = find(list[n].key_id);
        struct tde_key key = {0};

        if (index < 0 && tde_keys_records_read_wal(&list[n], &key) == 0)
            index = tde_keys_slots_add_wal(list[n].key_id, &key);
        tde_crypto_wipe(&key, sizeof key);
        if (index >= 0 && list[n].number > highest) {
            highest = list[n].number;
            newest = index;
        }
    }
    return newest;
}

void tde_keys_wal_reload(void)
{
    (void)load();
}

/* Programs that write WAL without a data directory use the newest key of their keystore. */
bool tde_keys_wal_open(void)
{
    tde_key_index newest;

    ranges = tde_keys_memory_shared(sizeof *ranges);
    newest = ranges == NULL ? TDE_KEY_NONE : load();
    if (newest < 0)
        return false;
    begin_with(newest);
    return true;
}

static int report_missing(const struct tde_keys_map *map, const uint8_t key_id[TDE_UUID_SIZE])
{
    const char *keystore = tde_keys_scope()->keystore;
    char digits[TDE_KEYMAP_HEX];

    tde_format_keymap_hex(key_id, digits);
    tde_libc_report("a key of WAL that %s names is missing: there is no usable key file "
                    "%s/keys/wal.<number>.%s.key; HINT: bring it from a backup of the keystore, or "
                    "on a standby from a copy of the primary's keystore: tde keystore copy BACKUP "
                    "%s",
                    map->path, keystore, digits, keystore);
    errno = ENOKEY;
    return -1;
}

/* The slot of the key that the map names last; TDE_KEY_NONE with errno when one is missing. */
static tde_key_index newest_of(const struct tde_keys_map *map)
{
    size_t count = tde_format_keymap_count(map->usable);
    tde_key_index newest = TDE_KEYS_WAL;
    tde_key_index index;
    bool reloaded = false;

    for (size_t number = 0; number < count; number++) {
        struct tde_keymap_entry entry;

        tde_format_keymap_entry(map->content, number, &entry);
        if (!tde_format_keymap_is_of_wal(&entry))
            continue;
        index = find(entry.key_id);
        if (index < 0 && !reloaded) {
            tde_keys_wal_reload();
            reloaded = true;
            index = find(entry.key_id);
        }
        if (index < 0) {
            report_missing(map, entry.key_id);
            return TDE_KEY_NONE;
        }
        atomic_store(&ranges->named[index - TDE_KEYS_LATER_WAL], 1);
        if (entry.kind == TDE_KEYMAP_WAL)
            newest = index;
    }
    return newest;
}

int tde_keys_wal_follow_map(void)
{
    struct tde_keys_map map;
    tde_key_index newest;

    if (!tde_keys_are_open() || atomic_load(&ranges->follows_map) != 0)
        return 0;
    if (access(TDE_KEYMAP_FILE, F_OK) != 0 && errno == ENOENT) {
        begin_with(TDE_KEYS_WAL); /* A cluster that is being made, or of an earlier release. */
        return 0;
    }
    if (tde_keys_map_open(&map, NULL, false) != 0)
        return -1;
    newest = newest_of(&map);
    tde_keys_map_close(&map);
    if (newest < 0)
        return -1;
    begin_with(newest);
    atomic_store(&ranges->follows_map, 1);
    return 0;
}

const char *tde_keys_wal_switch(const uint8_t key_id[TDE_UUID_SIZE])
{
    struct tde_keymap_entry entry;
    struct tde_keys_map map;
    tde_key_index index;
    bool named;

    if (tde_keys_map_open(&map, NULL, false) != 0)
        return "the key map of its cluster cannot be used; see its log";
    named = tde_format_keymap_find(map.content, map.usable, 0, &entry) &&
            memcmp(entry.key_id, key_id, TDE_UUID_SIZE) == 0;
    index = named ? newest_of(&map) : TDE_KEY_NONE;
    tde_keys_map_close(&map);
    if (!named)
        return "the key map of its cluster does not name this key of WAL last";
    if (index < 0)
        return "a key of WAL cannot be read from the keystore; see its log";
    if (add_range(index) != 0)
        return "it has written WAL with too many keys since its start; restart it";
    return NULL;
}

/*
 * From then on the server does not start without this key: WAL of another server is in its own
 * directory, and without the key recovery would end in front of it.
 */
int tde_keys_wal_remember(tde_key_index index)
{
    struct tde_keymap_entry entry = {0, TDE_KEYMAP_WAL_READ, {0}};
    struct tde_keys_map map;
    int result;

    if (index < TDE_KEYS_LATER_WAL || atomic_load(&ranges->named[index - TDE_KEYS_LATER_WAL]) != 0)
        return 0;
    (void)tde_keys_slots_later_wal((uint32_t)index - TDE_KEYS_LATER_WAL, entry.key_id);
    if (tde_keys_map_open(&map, NULL, true) != 0)
        return -1;
    result = tde_keys_map_append(&map, &entry);
    tde_keys_map_close(&map);
    if (result == 0)
        atomic_store(&ranges->named[index - TDE_KEYS_LATER_WAL], 1);
    return result;
}

bool tde_keys_wal_may_differ(void)
{
    uint8_t key_id[TDE_UUID_SIZE];

    return tde_keys_slots_later_wal(0, key_id) >= 0;
}

/* 1 when a key fits, 0 when it does not, -1 with errno. */
static int fits(tde_key_index index, const struct tde_identity *id,
                const uint8_t start[TDE_WAL_START_SIZE])
{
    struct tde_cipher *cipher = tde_keys_cipher(index);
    uint8_t plain[TDE_WAL_START_SIZE];
    uint8_t tweak[TDE_TWEAK_SIZE];

    if (cipher == NULL)
        return -1;
    if (tde_format_tweak(id, 0, tweak) != 0 ||
        tde_crypto_decrypt(cipher, tweak, start, plain, sizeof plain) != 0) {
        errno = EIO;
        return -1;
    }
    return tde_format_wal_is_start(plain, id) ? 1 : 0;
}

int tde_keys_wal_try(const struct tde_identity *id, const uint8_t start[TDE_WAL_START_SIZE],
                     tde_key_index *found)
{
    int result;

    *found = TDE_KEYS_WAL;
    result = fits(*found, id, start);
    for (uint32_t n = TDE_KEYS_LATER_WALS; result == 0 && n-- > 0;) {
        uint8_t key_id[TDE_UUID_SIZE];

        *found = tde_keys_slots_later_wal(n, key_id);
        if (*found >= 0)
            result = fits(*found, id, start);
    }
    return result;
}
