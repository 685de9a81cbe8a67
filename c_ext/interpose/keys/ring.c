/*
 * keys/ring.c - from a file's identity to its key, and the ciphers made from keys.
 *
 * OpenSSL contexts are private to a thread; those that the postmaster made before a fork are
 * inherited.
 */
#include "interpose/keys/ring.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "crypto/primitives.h"
#include "format/constants.h"
#include "interpose/keys/map.h"
#include "interpose/keys/records.h"
#include "interpose/keys/slots.h"
#include "interpose/keys/wal.h"
#include "interpose/keys/withheld.h"
#include "interpose/libc/report.h"
#include "interpose/libc/symbols.h"
#include "interpose/libc/transfer.h"

/* The ciphers of a thread lie in chunks that are made when first needed. */
#define CHUNK_SLOTS 256u
#define CHUNKS ((TDE_KEYS_SLOTS + CHUNK_SLOTS - 1) / CHUNK_SLOTS)

struct made_cipher {
    tde_key_index index; /* of the key that it was made from: a slot may get another */
    struct tde_cipher *cipher;
};

static __thread struct made_cipher **ciphers;
/* The one that was asked for last, which the next read or write nearly always asks for again. */
static __thread struct made_cipher last;
static pthread_key_t ciphers_key;
static pthread_once_t ciphers_once = PTHREAD_ONCE_INIT;

static void free_ciphers(void *table)
{
    struct made_cipher **all = table;

    for (size_t i = 0; i < CHUNKS; i++) {
        for (size_t k = 0; all[i] != NULL && k < CHUNK_SLOTS; k++)
            tde_crypto_cipher_free(all[i][k].cipher);
        free(all[i]);
    }
    free(all);
    ciphers = NULL;
    last.cipher = NULL;
}

static void make_ciphers_key(void)
{
    pthread_key_create(&ciphers_key, free_ciphers);
}

bool tde_keys_are_open(void)
{
    return tde_keys_scope() != NULL;
}

/* Where the cipher of a slot is kept; NULL when memory is short. */
static struct made_cipher *place_of(uint32_t slot)
{
    struct made_cipher **chunk;

    if (ciphers == NULL) {
        pthread_once(&ciphers_once, make_ciphers_key);
        ciphers = calloc(CHUNKS, sizeof *ciphers);
        if (ciphers == NULL)
            return NULL;
        pthread_setspecific(ciphers_key, ciphers);
    }
    chunk = &ciphers[slot / CHUNK_SLOTS];
    if (*chunk == NULL)
        *chunk = calloc(CHUNK_SLOTS, sizeof **chunk);
    return *chunk == NULL ? NULL : &(*chunk)[slot % CHUNK_SLOTS];
}

/* 0, or -1 with errno; what TO held until then is freed only when there is another. */
static int make_cipher(struct made_cipher *to, tde_key_index index)
{
    struct tde_cipher *cipher;
    struct tde_key key;

    if (tde_keys_slots_read(index, &key) != 0) {
        errno = EIO; /* The tablespace was dropped long ago: its slot has another key by now. */
        return -1;
    }
    cipher = tde_crypto_cipher_new(key.algorithm, key.bytes);
    tde_crypto_wipe(&key, sizeof key);
    if (cipher != NULL && index == TDE_KEYS_EPHEMERAL &&
        tde_crypto_cipher_set_tail_key(cipher, tde_keys_scope()->tail_key) != 0) {
        tde_crypto_cipher_free(cipher);
        cipher = NULL;
    }
    if (cipher == NULL) {
        errno = ENOMEM;
        return -1;
    }
    tde_crypto_cipher_free(to->cipher);
    to->cipher = cipher;
    to->index = index;
    return 0;
}

struct tde_cipher *tde_keys_cipher(tde_key_index index)
{
    uint32_t slot = (uint32_t)(index & UINT32_MAX);
    struct made_cipher *made;

    if (last.index == index && last.cipher != NULL)
        return last.cipher;
    if (index < 0 || slot >= TDE_KEYS_SLOTS) {
        errno = EIO;
        return NULL;
    }
    made = place_of(slot);
    if (made == NULL) {
        errno = ENOMEM;
        return NULL;
    }
    /* The cipher that this frees may be the last one, and then nobody gets it any more. */
    last.cipher = NULL;
    if ((made->cipher == NULL || made->index != index) && make_cipher(made, index) != 0)
        return NULL;
    last = *made;
    return made->cipher;
}

static tde_key_index load_entry(const struct tde_keymap_entry *entry, bool reports)
{
    tde_key_index index = TDE_KEY_NONE;
    struct tde_key key;

    if (tde_keys_records_resolve(entry, reports, &key) == 0)
        index = tde_keys_slots_store(entry, &key);
    tde_crypto_wipe(&key, sizeof key);
    return index;
}

/* The entry that counts for a tablespace; one that initdb makes needs none in the map. */
static bool find_entry(const struct tde_keys_map *map, uint32_t oid, struct tde_keymap_entry *entry)
{
    return tde_format_keymap_find(map->content, map->usable, oid, entry) ||
           tde_format_keymap_built_in(oid, entry);
}

/*
 * The keys of what initdb makes.  REQUIRED is for a server, which can do nothing without them: -1
 * with errno ENOKEY after a report.  Ciphers that are made before the first fork are inherited by
 * every backend.
 */
static int load_built_in(const struct tde_keys_map *map, bool required)
{
    static const uint32_t oids[] = {TDE_DEFAULT_TABLESPACE, TDE_GLOBAL_TABLESPACE};

    for (size_t i = 0; i < sizeof oids / sizeof oids[0]; i++) {
        struct tde_keymap_entry entry;
        tde_key_index index = tde_keys_slots_find(oids[i]);
        int algorithm;

        if (index < 0 && find_entry(map, oids[i], &entry))
            index = load_entry(&entry, required);
        if (index < 0 && (required || errno != ENOKEY))
            return -1;
        if (index >= 0 && tde_keys_slots_algorithm(index, &algorithm) == 0 &&
            algorithm != TDE_ALGORITHM_PLAINTEXT)
            tde_keys_cipher(index);
    }
    return 0;
}

/*
 * Once in the life of a server, or of a tool, the keys of all tablespaces are loaded; from then
 * on the keystore is asked only about what was missing.  -1 with errno when that must be tried
 * again; a key that is missing is reported to those who need it.
 */
static int load_all(const struct tde_keys_map *map)
{
    size_t count = tde_format_keymap_count(map->usable);

    if (load_built_in(map, false) != 0)
        return -1;

    for (size_t number = 0; number < count; number++) {
        struct tde_keymap_entry entry;
        struct tde_keymap_entry counts;

        tde_format_keymap_entry(map->content, number, &entry);
        if (tde_keys_slots_find(entry.oid) >= 0 || !tde_keys_map_is_linked(map, entry.oid) ||
            !tde_format_keymap_find(map->content, map->usable, entry.oid, &counts))
            continue;
        if (load_entry(&counts, false) < 0 && errno != ENOKEY)
            return -1;
    }
    tde_keys_slots_set_loaded();
    return 0;
}

/* initdb's server works in a directory that has no map yet. */
int tde_keys_load_all(void)
{
    struct tde_keys_map map;
    int result;

    if (!tde_keys_are_open() || tde_keys_slots_loaded() || access(TDE_KEYMAP_FILE, F_OK) != 0)
        return 0;
    if (tde_keys_map_open(&map, NULL, false) != 0)
        return errno == ENOKEY ? -1 : 0; /* Files that are opened later try again. */
    result = load_built_in(&map, true);
    if (result != 0 && errno != ENOKEY)
        result = 0;
    else if (result == 0)
        load_all(&map);
    tde_keys_map_close(&map);
    return result;
}

/* The way of a file whose key is not in memory. */
static tde_key_index look_into_map(uint32_t oid, const char *path)
{
    tde_key_index index = TDE_KEY_NONE;
    struct tde_keymap_entry entry;
    struct tde_keys_map map;
    int error = 0;

    if (tde_format_keymap_built_in(oid, &entry) && tde_keys_map_is_not_yet(path))
        return load_entry(&entry, true);
    if (tde_keys_map_open(&map, path, false) != 0)
        return TDE_KEY_NONE;
    if (!tde_keys_slots_loaded() && load_all(&map) != 0)
        error = errno;
    if (error == 0) {
        index = tde_keys_slots_find(oid);
        if (index >= 0) {
            tde_keys_map_close(&map);
            return index;
        }
        if (find_entry(&map, oid, &entry)) {
            index = load_entry(&entry, true);
            error = errno;
        } else if (tde_keys_scope()->other.algorithm == TDE_ALGORITHM_PLAINTEXT) {
            tde_libc_report("tablespace %u was made without tde and has no key; HINT: make "
                            "another one with \"tde tablespace create\"", oid);
            error = ENOKEY;
        } else {
            tde_keys_map_refuse_unknown(&map, oid);
            error = ENOKEY;
        }
    }
    tde_keys_map_close(&map);
    errno = error;
    return index;
}

tde_key_index tde_keys_find(const struct tde_identity *id, const char *path)
{
    tde_key_index index;
    int algorithm;

    if (!tde_keys_are_open()) {
        tde_libc_report("could not encrypt or decrypt data because the keystore is not open; "
                        "HINT: Open the existing keystore, or set the master encryption key to "
                        "create and open a new keystore");
        errno = ENOKEY;
        return TDE_KEY_NONE;
    }
    /* The keys of WAL and of ephemeral files are in the ring since the start. */
    if (id->file_class == TDE_CLASS_WAL)
        return tde_keys_wal_usual(); /* Settled when the file is open. */
    if (id->file_class == TDE_CLASS_EPHEMERAL)
        return TDE_KEYS_EPHEMERAL;
    index = tde_keys_slots_find(id->tablespace);
    if (index < 0)
        index = look_into_map(id->tablespace, path);
    if (index < 0)
        return TDE_KEY_NONE;
    if (tde_keys_slots_algorithm(index, &algorithm) != 0) {
        errno = EIO;
        return TDE_KEY_NONE;
    }
    return algorithm == TDE_ALGORITHM_PLAINTEXT ? TDE_KEY_PLAINTEXT : index;
}

/*
 * Only processes of this start ever read an ephemeral file, so its key is random,
 * exists nowhere else and dies with them.
 */
static const char *make_ephemeral_key(struct tde_keys_scope *scope)
{
    struct tde_key key = {.algorithm = TDE_ALGORITHM_AES256};
    const char *problem = "no key for temporary files could be made";

    if (tde_crypto_random(scope->tail_key, sizeof scope->tail_key) == 0 &&
        tde_crypto_random(key.bytes, sizeof key.bytes) == 0) {
        tde_keys_slots_set(TDE_KEYS_EPHEMERAL, &key);
        problem = NULL;
    }
    tde_crypto_wipe(&key, sizeof key);
    return problem;
}

/* A sealed memfd cannot change between here and the next program that reads it. */
static const char *read_handover(int fd, struct tde_keys_scope *scope, bool *closed)
{
    int seals = tde_libc()->fcntl(fd, F_GET_SEALS);
    uint8_t data[TDE_HANDOVER_MAX];
    const char *problem;
    ssize_t length;

    if (seals < 0 || (seals & TDE_HANDOVER_SEALS) != TDE_HANDOVER_SEALS)
        return "the key hand-over is not a sealed memory file";
    length = tde_libc_read_fully(fd, data, sizeof data, 0);
    problem = length < 0 ? "the key hand-over could not be read"
                         : tde_format_handover_parse(data, (size_t)length, &scope->scope,
                                                     closed, scope->keystore);
    tde_crypto_wipe(data, sizeof data);
    return problem;
}

static const char *load_wal(struct tde_keys_scope *scope)
{
    const char *problem = NULL;
    struct tde_key key;
    bool there = tde_keys_records_read(TDE_OWNER_WAL, 0, &key) == 0;

    if (!there && errno == ENOENT)
        tde_libc_report("there is no key file %s/keys/wal.key; HINT: bring it from a backup of "
                        "the keystore: tde keystore copy BACKUP %s",
                        scope->keystore, scope->keystore);
    if (!there)
        problem = "the WAL key is not usable";
    else if (tde_format_keymap_key(&key, scope->map_key) != 0)
        problem = "the key of the key map could not be derived";
    else if (tde_format_keyrecord_wal_proof(&key, scope->wal_proof) != 0)
        problem = "the proof of the WAL key could not be derived";
    else if (tde_format_message_key(&key, scope->reader.key) != 0)
        problem = "the key for messages could not be derived";
    else
        tde_keys_slots_set(TDE_KEYS_WAL, &key);
    /* A provider of FIPS may have no X25519.  The server starts, and publishes zeros. */
    (void)tde_crypto_exchange_new(&scope->reader.exchange);
    memcpy(scope->reader.keystore, scope->scope.keystore, sizeof scope->reader.keystore);
    tde_crypto_wipe(&key, sizeof key);
    return problem;
}

/* Only clusters of scope cluster have a key that others are derived from. */
static const char *load_other(struct tde_keys_scope *scope)
{
    if (tde_keys_records_read(TDE_OWNER_OTHER_TABLESPACES, 0, &scope->other) == 0 ||
        errno == ENOENT)
        return NULL;
    return "the key of other tablespaces is not usable";
}

const char *tde_keys_open(int fd)
{
    const char *problem;
    bool closed = false;

    if (!tde_crypto_is_complete())
        return TDE_CRYPTO_INCOMPLETE;
    if (!tde_keys_slots_create())
        return "there is no memory for keys";
    problem = read_handover(fd, tde_keys_scope(), &closed);
    if (problem == NULL)
        problem = make_ephemeral_key(tde_keys_scope());
    if (problem == NULL)
        problem = load_wal(tde_keys_scope());
    if (problem == NULL)
        problem = load_other(tde_keys_scope());
    if (problem == NULL && tde_keys_slots_protect() != 0)
        problem = "the memory of the keys could not be protected";
    if (problem == NULL && (!tde_keys_wal_open() || !tde_keys_withheld_create(closed)))
        problem = "the keys of WAL could not be loaded";
    if (problem != NULL) {
        tde_keys_slots_destroy();
        return problem;
    }
    tde_keys_cipher(TDE_KEYS_WAL);
    tde_keys_cipher(TDE_KEYS_EPHEMERAL);
    return NULL;
}
