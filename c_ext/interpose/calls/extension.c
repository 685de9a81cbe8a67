/*
 * calls/extension.c - see calls/extension.h.
 */
#include "interpose/calls/extension.h"

#include <stddef.h>
#include <string.h>

#include "interpose/blocks/counters.h"
#include "interpose/blocks/status.h"
#include "interpose/keys/records.h"
#include "interpose/keys/ring.h"
#include "interpose/keys/slots.h"
#include "interpose/keys/withheld.h"
#include "interpose/libc/symbols.h"

_Static_assert(TDE_IO_RECORD_SIZE == TDE_KEYRECORD_NAMED_SIZE, "a record has its size");

static uint32_t bits_of(int algorithm)
{
    switch (algorithm) {
    case TDE_ALGORITHM_AES128:
        return 128;
    case TDE_ALGORITHM_AES256:
        return 256;
    default:
        return 0;
    }
}

static const char *keystore(void)
{
    return tde_keys_scope()->keystore;
}

static uint32_t usual_bits(void)
{
    return bits_of(tde_keys_scope()->other.algorithm);
}

static bool is_closed(void)
{
    return tde_keys_withheld_list(NULL, 0);
}

static enum tde_io_withheld withheld(uint32_t oid)
{
    switch (tde_keys_withheld_find(oid)) {
    case TDE_WITHHELD_CLOSED:
        return TDE_IO_CLOSED;
    case TDE_WITHHELD_LOCKED:
        return TDE_IO_LOCKED;
    default:
        return TDE_IO_NOT_WITHHELD;
    }
}

static void describe(const struct tde_keymap_entry *entry, int algorithm,
                     struct tde_io_tablespace *to)
{
    to->bits = bits_of(algorithm);
    memcpy(to->key_id, entry->key_id, sizeof to->key_id);
    if (tde_format_keymap_has_id(entry))
        to->key_file = TDE_IO_KEY_OF_ID;
    else
        to->key_file = entry->kind == TDE_KEYMAP_DERIVED ? TDE_IO_OTHER_KEY : TDE_IO_KEY_OF_OID;
}

/* Two processes may have loaded the same key: one slot counts for who asks, both have counted. */
static bool tablespace(uint32_t oid, struct tde_io_tablespace *to)
{
    bool found = false;

    memset(to, 0, sizeof *to);
    for (uint32_t slot = TDE_KEYS_FIRST_TABLESPACE; slot < tde_keys_slots_end(); slot++) {
        struct tde_blocks_counted counted;
        struct tde_keymap_entry entry;
        int algorithm;
        bool exists;

        if (!tde_keys_slots_show(slot, &entry, &algorithm, &exists) || entry.oid != oid)
            continue;
        counted = tde_blocks_counted_of_slot(slot);
        to->bytes.encrypted += counted.encrypted;
        to->bytes.decrypted += counted.decrypted;
        if (exists) {
            describe(&entry, algorithm, to);
            found = true;
        }
    }
    return found;
}

static struct tde_io_bytes of_class(enum tde_file_class file_class)
{
    struct tde_blocks_counted counted = tde_blocks_counted_of_class(file_class);

    return (struct tde_io_bytes){counted.encrypted, counted.decrypted};
}

static void activity(struct tde_io_activity *to)
{
    to->relations = of_class(TDE_CLASS_RELATION);
    to->wal = of_class(TDE_CLASS_WAL);
    to->temporary = of_class(TDE_CLASS_EPHEMERAL);
}

static bool new_record(uint32_t bits, uint8_t record[TDE_IO_RECORD_SIZE])
{
    int algorithm = bits == 128 ? TDE_ALGORITHM_AES128 : TDE_ALGORITHM_AES256;

    return tde_keys_records_make(bits == 0 ? TDE_ALGORITHM_PLAINTEXT : algorithm, record) == 0;
}

static void close_for_sessions(void)
{
    tde_keys_withheld_close(true);
    tde_blocks_status_closed();
}

TDE_EXPORT const struct tde_io_status *tde_io_status_v1(void)
{
    static const struct tde_io_status status = {
        .keystore = keystore,
        .usual_bits = usual_bits,
        .is_closed = is_closed,
        .withheld = withheld,
        .tablespace = tablespace,
        .activity = activity,
        .new_record = new_record,
        .close = close_for_sessions,
    };

    return tde_keys_are_open() ? &status : NULL;
}
