/*
 * calls/extension.h - what the SQL extension (c_ext/extension) may ask of the interposer in its
 * process.  It is a file of its own and looks this function up by its name, so the layout never
 * changes: something new gets a new name.
 *
 * Nothing here gives a key away, or what a key could be derived from.
 */
#ifndef TDE_INTERPOSE_CALLS_EXTENSION_H
#define TDE_INTERPOSE_CALLS_EXTENSION_H

#include <stdbool.h>
#include <stdint.h>

#define TDE_IO_STATUS_FUNCTION "tde_io_status_v1"
#define TDE_IO_KEY_ID_SIZE 16
#define TDE_IO_RECORD_SIZE 160

enum tde_io_withheld { TDE_IO_NOT_WITHHELD, TDE_IO_CLOSED, TDE_IO_LOCKED };

/* Which file of keys/ a tablespace depends on. */
enum tde_io_key_file { TDE_IO_OTHER_KEY, TDE_IO_KEY_OF_OID, TDE_IO_KEY_OF_ID };

/* Bytes since the start of the server. */
struct tde_io_bytes {
    uint64_t encrypted;
    uint64_t decrypted;
};

struct tde_io_tablespace {
    uint32_t bits; /* of its AES key; 0 for one that is not encrypted */
    enum tde_io_key_file key_file;
    uint8_t key_id[TDE_IO_KEY_ID_SIZE];
    struct tde_io_bytes bytes;
};

struct tde_io_activity {
    struct tde_io_bytes relations;
    struct tde_io_bytes wal;
    struct tde_io_bytes temporary;
};

struct tde_io_status {
    /* The keystore's directory, an absolute path. */
    const char *(*keystore)(void);
    /* Bits of the key of a tablespace that is made in SQL; 0 where that is refused. */
    uint32_t (*usual_bits)(void);
    /* Whether the keystore is closed for sessions. */
    bool (*is_closed)(void);
    /* Whether sessions may use a tablespace. */
    enum tde_io_withheld (*withheld)(uint32_t oid);
    /* What protects a tablespace; false when its key is not in memory. */
    bool (*tablespace)(uint32_t oid, struct tde_io_tablespace *to);
    void (*activity)(struct tde_io_activity *to);
    /*
     * Make a key for a tablespace to be, 128 or 256 bits, or 0 for one in plain text; RECORD is what
     * the keystore has to store of it, wrapped with the master key.  False when it failed.
     */
    bool (*new_record)(uint32_t bits, uint8_t record[TDE_IO_RECORD_SIZE]);
    /* Close the keystore for sessions.  To open it again takes the keystore. */
    void (*close)(void);
};

/* NULL in a server that has no keys. */
const struct tde_io_status *tde_io_status_v1(void);

#endif
