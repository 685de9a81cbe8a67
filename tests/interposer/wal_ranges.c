/*
 * wal_ranges.c - sessions open new segments while the key of WAL is changed: whoever opens a
 * segment, and whenever, gets the same key for it, and a later segment never has an earlier key.
 */
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

#include "interpose/keys/wal.c"

#define ROUNDS 30u
#define CHANGES (RANGES - 1u)


static _Atomic uint32_t arrived;

/* What wal.c needs of the others; nothing here reads a keystore. */
bool tde_keys_are_open(void)
{
    return true;
}

struct tde_cipher *tde_keys_cipher(tde_key_index index)
{
    (void)index;
    return NULL;
}

struct tde_keys_scope *tde_keys_scope(void)
{
    return NULL;
}

int tde_keys_records_list_wal(struct tde_wal_record *list, size_t most, size_t *count)
{
    (void)list;
    (void)most;
    *count = 0;
    return 0;
}

int tde_keys_records_read_wal(const struct tde_wal_record *record, struct tde_key *key)
{
    (void)record;
    (void)key;
    return -1;
}

tde_key_index tde_keys_slots_add_wal(const uint8_t key_id[TDE_UUID_SIZE], const struct tde_key *key)
{
    (void)key_id;
    (void)key;
    return TDE_KEY_NONE;
}

tde_key_index tde_keys_slots_later_wal(uint32_t number, uint8_t key_id[TDE_UUID_SIZE])
{
    (void)number;
    (void)key_id;
    return TDE_KEY_NONE;
}

int tde_keys_map_open(struct tde_keys_map *map, const char *path, bool appends)
{
    (void)map;
    (void)path;
    (void)appends;
    return -1;
}

int tde_keys_map_append(struct tde_keys_map *map, const struct tde_keymap_entry *entry)
{
    (void)map;
    (void)entry;
    return -1;
}

void tde_keys_map_close(struct tde_keys_map *map)
{
    (void)map;
}

static tde_key_index key_of(uint32_t number)
{
    struct tde_identity id = {
        .file_class = TDE_CLASS_WAL,
        .word = {1, number >> SEGMENT_BITS, number & ((1u << SEGMENT_BITS) - 1)},
    };

    return tde_keys_wal_decide(&id);
}

/* Both threads go on at the same moment. */
static void meet(void)
{
    uint32_t turn = atomic_fetch_add(&arrived, 1) / 2;

    for (uint32_t spins = 0; atomic_load(&arrived) / 2 == turn; spins++)
        if (spins > 300)
            sched_yield(); /* The other one has no processor. */
}

/* Opens each segment while the other one changes the key. */
static void *open_segments(void *argument)
{
    uint8_t *answers = argument;

    for (uint32_t n = 0; n < CHANGES; n++) {
        meet();
        answers[n] = (uint8_t)key_of(n + 1);
    }
    meet();
    return NULL;
}

/* Opens it as well, after the change. */
static void change_keys(uint8_t answers[CHANGES])
{
    for (uint32_t n = 0; n < CHANGES; n++) {
        meet();
        if (add_range((tde_key_index)(TDE_KEYS_LATER_WAL + n % TDE_KEYS_LATER_WALS)) != 0)
            printf("no room for change %u\n", n);
        answers[n] = (uint8_t)key_of(n + 1);
    }
    meet();
}

int main(void)
{
    uint32_t before = 0;
    uint32_t after = 0;

    if (!tde_keys_wal_open())
        return 1;
    for (uint32_t round = 0; round < ROUNDS; round++) {
        uint8_t answers[2][CHANGES];
        pthread_t other;

        begin_with(TDE_KEYS_WAL);
        pthread_create(&other, NULL, open_segments, answers[0]);
        change_keys(answers[1]);
        pthread_join(other, NULL);
        for (uint32_t n = 0; n < CHANGES; n++) {
            tde_key_index last = key_of(n + 1);

            if (answers[0][n] != last || answers[1][n] != last)
                printf("segment %u: %u, %u and %u\n", n + 1, answers[0][n], answers[1][n],
                       (unsigned)last);
            if (last == (tde_key_index)(TDE_KEYS_LATER_WAL + n % TDE_KEYS_LATER_WALS))
                after++; /* The change counts from this segment on. */
            else
                before++;
        }
    }
    printf("%s\n", before > 0 && after > 0 ? "done" : "they never raced");
    return 0;
}
