/*
 * key_slots.c - the memory of keys with 32 slots, so that they are used again soon: a number that
 * was given out for a slot never leads to the key that has taken its place.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "crypto/cipher.h"
#include "interpose/keys/slots.h"

#define TABLESPACES 10000u

static void require(bool holds, int line)
{
    if (holds)
        return;
    printf("line %d\n", line);
    exit(1);
}

#define REQUIRE(holds) require(holds, __LINE__)

static struct tde_keymap_entry entry_of(uint32_t oid)
{
    return (struct tde_keymap_entry){oid, TDE_KEYMAP_DERIVED, {0}};
}

static tde_key_index store(uint32_t oid)
{
    struct tde_keymap_entry entry = entry_of(oid);
    struct tde_key key = {.algorithm = TDE_ALGORITHM_AES256};

    memcpy(key.bytes, &oid, sizeof oid);
    return tde_keys_slots_store(&entry, &key);
}

/* The OID whose key an index leads to, or 0. */
static uint32_t follow(tde_key_index index)
{
    struct tde_key key;
    uint32_t oid = 0;

    if (tde_keys_slots_read(index, &key) == 0)
        memcpy(&oid, key.bytes, sizeof oid);
    return oid;
}

/* Many more tablespaces than there are slots, one after the other. */
static void come_and_go(void)
{
    static tde_key_index given[TABLESPACES];
    uint32_t kept = 0;

    for (uint32_t i = 0; i < TABLESPACES; i++) {
        given[i] = store(i + 1);
        REQUIRE(given[i] >= 0 && follow(given[i]) == i + 1);
        REQUIRE(tde_keys_slots_find(i + 1) == given[i]);
        tde_keys_slots_drop(i + 1);
        REQUIRE(tde_keys_slots_find(i + 1) < 0);
        REQUIRE(follow(given[i]) == i + 1); /* Until another needs the slot. */
    }
    for (uint32_t i = 0; i < TABLESPACES; i++) {
        uint32_t found = follow(given[i]);

        REQUIRE(found == 0 || found == i + 1);
        kept += found != 0;
    }
    REQUIRE(kept == TDE_KEYS_SLOTS - TDE_KEYS_FIRST_TABLESPACE);
}

static void fill(void)
{
    tde_key_index given[TDE_KEYS_SLOTS];
    struct tde_keymap_entry entry = entry_of(70000);
    uint32_t count = TDE_KEYS_SLOTS - TDE_KEYS_FIRST_TABLESPACE;

    for (uint32_t i = 0; i < count; i++)
        REQUIRE((given[i] = store(70000 + i)) >= 0);
    REQUIRE(store(80000) < 0);
    for (uint32_t i = 0; i < count; i++)
        REQUIRE(tde_keys_slots_find(70000 + i) == given[i] && follow(given[i]) == 70000 + i);
    tde_keys_slots_drop(70000);
    REQUIRE(tde_keys_slots_revive(&entry) == given[0] && tde_keys_slots_find(70000) == given[0]);
    tde_keys_slots_drop(70000);
    REQUIRE(store(80000) >= 0);
    REQUIRE(tde_keys_slots_revive(&entry) < 0 && follow(given[0]) == 0);
}

/* Processes that add and drop the same tablespaces never find the key of another. */
static void many_processes(void)
{
    for (int child = 0; child < 4; child++)
        if (fork() == 0) {
            for (uint32_t i = 0; i < 20000; i++) {
                uint32_t oid = 90000 + i % 5;
                tde_key_index index = tde_keys_slots_find(oid);

                if (index < 0)
                    index = store(oid);
                uint32_t found = follow(index);
                REQUIRE(found == oid || found == 0);
                if (i % 3 == 0)
                    tde_keys_slots_drop(oid);
            }
            _exit(0);
        }
    for (int child = 0; child < 4; child++) {
        int status;

        REQUIRE(wait(&status) > 0 && status == 0);
    }
}

static const struct tde_key_scope *master(uint8_t id)
{
    uint8_t uuid[TDE_UUID_SIZE] = {id};

    return tde_keys_slots_master(uuid);
}

/* Only the newest master key opens records; who still reads one of the eight before it may. */
static void rotations(void)
{
    const struct tde_key_scope *before = master(0);

    REQUIRE(before != NULL); /* The one that the server was started with. */
    for (uint8_t id = 1; id < 30; id++) {
        struct tde_key_scope made = {.master_key_id = {id}};

        made.master_key[0] = id;
        REQUIRE(master(id) == NULL && tde_keys_slots_add_master(&made) == 0);
        REQUIRE(master(id) != NULL && master(id)->master_key[0] == id);
        REQUIRE(master((uint8_t)(id - 1)) == NULL && before->master_key[0] == id - 1);
        before = master(id);
    }
    REQUIRE(tde_keys_slots_add_master(&(struct tde_key_scope){.master_key_id = {28}}) == 0);
    REQUIRE(master(28) != NULL && master(29) == NULL);
}

int main(void)
{
    REQUIRE(tde_keys_slots_create());
    rotations();
    REQUIRE(tde_keys_slots_protect() == 0);
    REQUIRE(tde_keys_slots_find(1) < 0);
    come_and_go();
    fill();
    for (uint32_t oid = 70000; oid < 80001; oid++)
        tde_keys_slots_drop(oid);
    many_processes();
    tde_keys_slots_destroy();
    puts("done");
    return 0;
}
