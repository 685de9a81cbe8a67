/*
 * keys/ring.c - keys in shared, locked memory and the ciphers made from them.
 */
#include "interpose/keys/ring.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "crypto/primitives.h"
#include "format/constants.h"
#include "format/handover.h"
#include "format/keyrecord.h"
#include "interpose/keys/derived.h"
#include "interpose/libc/report.h"
#include "interpose/libc/symbols.h"
#include "interpose/libc/transfer.h"

#define MAX_KEYS 1024
#define EPHEMERAL_OWNER 0u /* beside enum tde_key_owner: the key that lives for one start */

enum slot_state { SLOT_EMPTY, SLOT_CLAIMED, SLOT_READY };

struct slot {
    _Atomic int state;
    uint32_t owner;
    uint32_t oid;
    struct tde_key key;
};

struct ring {
    struct tde_key_scope scope;
    uint8_t tail_key[TDE_TAIL_KEY_SIZE];
    char keystore[TDE_HANDOVER_PATH_MAX + 1];
    struct slot slots[MAX_KEYS];
};

static struct ring *ring;

/* Guards the moments in which this process may write to the ring. */
static pthread_mutex_t ring_lock = PTHREAD_MUTEX_INITIALIZER;

/* The ciphers of this thread, by key; freed when the thread ends. */
static __thread struct tde_cipher **ciphers;
static pthread_key_t ciphers_key;
static pthread_once_t ciphers_once = PTHREAD_ONCE_INIT;

static void free_ciphers(void *table)
{
    struct tde_cipher **all = table;

    for (size_t i = 0; i < MAX_KEYS; i++)
        tde_crypto_cipher_free(all[i]);
    free(all);
    ciphers = NULL;
}

static void make_ciphers_key(void)
{
    pthread_key_create(&ciphers_key, free_ciphers);
}

bool tde_keys_are_open(void)
{
    return ring != NULL;
}

struct tde_cipher *tde_keys_cipher(tde_key_index index)
{
    struct slot *slot = &ring->slots[index];

    if (ciphers != NULL && ciphers[index] != NULL)
        return ciphers[index];
    if (ciphers == NULL) {
        pthread_once(&ciphers_once, make_ciphers_key);
        ciphers = calloc(MAX_KEYS, sizeof(struct tde_cipher *));
        if (ciphers == NULL)
            return NULL;
        pthread_setspecific(ciphers_key, ciphers);
    }
    struct tde_cipher *cipher = tde_crypto_cipher_new(slot->key.algorithm, slot->key.bytes);
    if (cipher != NULL && slot->owner == EPHEMERAL_OWNER &&
        tde_crypto_cipher_set_tail_key(cipher, ring->tail_key) != 0) {
        tde_crypto_cipher_free(cipher);
        cipher = NULL;
    }
    ciphers[index] = cipher;
    return cipher;
}

static tde_key_index find_slot(uint32_t owner, uint32_t oid)
{
    for (int i = 0; i < MAX_KEYS; i++) {
        struct slot *slot = &ring->slots[i];
        int state = atomic_load_explicit(&slot->state, memory_order_acquire);

        if (state == SLOT_EMPTY)
            return TDE_KEY_NONE; /* Slots are taken in order, so nothing comes after. */
        if (state == SLOT_READY && slot->owner == owner && slot->oid == oid)
            return i;
    }
    return TDE_KEY_NONE;
}

/*
 * Claiming a slot is one compare-and-swap: a process that is killed in between wastes
 * the slot and holds no lock.  Two processes may store the same key twice, harmlessly.
 */
static tde_key_index fill_slot(uint32_t owner, uint32_t oid, const struct tde_key *key)
{
    for (int i = 0; i < MAX_KEYS; i++) {
        struct slot *slot = &ring->slots[i];
        int empty = SLOT_EMPTY;

        if (!atomic_compare_exchange_strong(&slot->state, &empty, SLOT_CLAIMED))
            continue;
        slot->owner = owner;
        slot->oid = oid;
        slot->key = *key;
        atomic_store_explicit(&slot->state, SLOT_READY, memory_order_release);
        return i;
    }
    tde_libc_report("the key ring is full: one server uses at most %d keys", MAX_KEYS);
    return TDE_KEY_NONE;
}

/*
 * A stray write in one backend would spoil the keys of all, and with them every block
 * written from then on, so the ring is read-only except while a key is added.
 */
static tde_key_index store_key(uint32_t owner, uint32_t oid, const struct tde_key *key)
{
    tde_key_index index = TDE_KEY_NONE;

    pthread_mutex_lock(&ring_lock);
    if (mprotect(ring, sizeof *ring, PROT_READ | PROT_WRITE) == 0) {
        index = fill_slot(owner, oid, key);
        mprotect(ring, sizeof *ring, PROT_READ);
    }
    pthread_mutex_unlock(&ring_lock);
    return index;
}

/* One byte more than a record is read, so that a file that is too long is noticed. */
static ssize_t read_record(const char *path, uint8_t record[TDE_KEYRECORD_SIZE + 1])
{
    int fd = tde_libc()->open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    ssize_t length;

    if (fd < 0)
        return -1;
    length = tde_libc_read_fully(fd, record, TDE_KEYRECORD_SIZE + 1, 0);
    int saved = errno;
    tde_libc()->close(fd);
    errno = saved;
    return length;
}

/* The name of a record's file in the keystore's directory "keys". */
static void record_name(enum tde_key_owner owner, uint32_t oid, char name[16])
{
    if (owner == TDE_OWNER_WAL)
        strcpy(name, "wal.key");
    else if (owner == TDE_OWNER_OTHER_TABLESPACES)
        strcpy(name, "other.key");
    else
        snprintf(name, 16, "%u.key", oid);
}

enum record_state { RECORD_READ, RECORD_MISSING, RECORD_UNUSABLE };

/*
 * Read and unwrap a record.  That it is missing can be an answer, so only the caller knows
 * what to say about it; whatever is wrong with one that exists is reported here.
 */
static enum record_state unwrap_record(enum tde_key_owner owner, uint32_t oid, struct tde_key *key)
{
    uint8_t record[TDE_KEYRECORD_SIZE + 1];
    char path[TDE_HANDOVER_PATH_MAX + 64];
    char name[16];
    const char *problem;
    ssize_t length;

    record_name(owner, oid, name);
    snprintf(path, sizeof path, "%s/keys/%s", ring->keystore, name);
    length = read_record(path, record);
    if (length < 0 && errno == ENOENT)
        return RECORD_MISSING;
    if (length < 0) {
        tde_libc_report("could not read key file %s: %s", path, strerror(errno));
        return RECORD_UNUSABLE;
    }
    problem = tde_format_keyrecord_unwrap(record, (size_t)length, &ring->scope, owner, oid, key);
    if (problem == NULL)
        return RECORD_READ;
    tde_libc_report("could not use key file %s: %s; HINT: restore it from the keystore's backup",
                    path, problem);
    return RECORD_UNUSABLE;
}

static tde_key_index load_key(enum tde_key_owner owner, uint32_t oid)
{
    struct tde_key key;
    char name[16];
    tde_key_index index = TDE_KEY_NONE;

    switch (unwrap_record(owner, oid, &key)) {
    case RECORD_READ:
        index = store_key(owner, oid, &key);
        tde_crypto_wipe(&key, sizeof key);
        break;
    case RECORD_MISSING:
        record_name(owner, oid, name);
        tde_libc_report("there is no key file %s/keys/%s; "
                        "HINT: restore it from the keystore's backup",
                        ring->keystore, name);
        break;
    case RECORD_UNUSABLE:
    default:
        break;
    }
    return index;
}

/*
 * The key of a tablespace without a record of its own.  It is kept under another owner than
 * that of a record, which is therefore looked for again at each open: one that is written
 * later (tde tablespace create, right after CREATE TABLESPACE) decides from then on.
 */
static tde_key_index derived_key(uint32_t oid, const char *path)
{
    tde_key_index index = find_slot(TDE_OWNER_OTHER_TABLESPACES, oid);
    struct tde_key base;
    struct tde_key key;

    if (index != TDE_KEY_NONE)
        return index;
    switch (unwrap_record(TDE_OWNER_OTHER_TABLESPACES, 0, &base)) {
    case RECORD_READ:
        if (tde_format_keyrecord_derive(&base, oid, &key) == 0) {
            if (tde_keys_derived_fits(path, &key))
                index = store_key(TDE_OWNER_OTHER_TABLESPACES, oid, &key);
            else
                tde_libc_report("the files of tablespace %u have a key of their own, but "
                                "%s/keys/%u.key does not exist; HINT: restore that file from the "
                                "keystore's backup, or on a standby copy it from the primary's "
                                "keystore",
                                oid, ring->keystore, oid);
        }
        tde_crypto_wipe(&base, sizeof base);
        tde_crypto_wipe(&key, sizeof key);
        break;
    case RECORD_MISSING:
        tde_libc_report("tablespace %u has no key (%s/keys/%u.key does not exist); HINT: on a "
                        "standby or a restored cluster copy that file from the primary's keystore; "
                        "for a tablespace made without tde run \"tde tablespace protect\"",
                        oid, ring->keystore, oid);
        break;
    case RECORD_UNUSABLE:
    default:
        break;
    }
    return index;
}

static tde_key_index tablespace_key(uint32_t oid, const char *path)
{
    tde_key_index index = find_slot(TDE_OWNER_TABLESPACE, oid);
    struct tde_key key;

    if (index != TDE_KEY_NONE)
        return index;
    switch (unwrap_record(TDE_OWNER_TABLESPACE, oid, &key)) {
    case RECORD_READ:
        index = store_key(TDE_OWNER_TABLESPACE, oid, &key);
        tde_crypto_wipe(&key, sizeof key);
        return index;
    case RECORD_MISSING:
        return derived_key(oid, path);
    case RECORD_UNUSABLE:
    default:
        return TDE_KEY_NONE;
    }
}

tde_key_index tde_keys_find(const struct tde_identity *id, const char *path)
{
    tde_key_index index;

    if (ring == NULL) {
        tde_libc_report("could not encrypt or decrypt data because the keystore is not open; "
                        "HINT: Open the existing keystore, or set the master encryption key to "
                        "create and open a new keystore");
        return TDE_KEY_NONE;
    }
    /* The keys of WAL and of ephemeral files are in the ring since the start. */
    if (id->file_class == TDE_CLASS_WAL)
        index = find_slot(TDE_OWNER_WAL, 0);
    else if (id->file_class == TDE_CLASS_EPHEMERAL)
        index = find_slot(EPHEMERAL_OWNER, 0);
    else
        index = tablespace_key(id->tablespace, path);
    if (index >= 0 && ring->slots[index].key.algorithm == TDE_ALGORITHM_PLAINTEXT)
        return TDE_KEY_PLAINTEXT;
    return index;
}

/*
 * Only processes of this start ever read an ephemeral file, so its key is random,
 * exists nowhere else and dies with them.
 */
static int make_ephemeral_key(void)
{
    struct tde_key key = {.algorithm = TDE_ALGORITHM_AES256};
    int result = -1;

    /* The ring is still writable here: the first key that is stored makes it read-only. */
    if (tde_crypto_random(ring->tail_key, sizeof ring->tail_key) == 0 &&
        tde_crypto_random(key.bytes, sizeof key.bytes) == 0 &&
        store_key(EPHEMERAL_OWNER, 0, &key) >= 0)
        result = 0;
    tde_crypto_wipe(&key, sizeof key);
    return result;
}

static struct ring *map_ring(void)
{
    struct ring *made = tde_libc()->mmap(NULL, sizeof *made, PROT_READ | PROT_WRITE,
                                         MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    if (made == MAP_FAILED)
        return NULL;
    madvise(made, sizeof *made, MADV_DONTDUMP);
    if (mlock(made, sizeof *made) != 0)
        tde_libc_report("could not lock the key memory (%s), so keys may reach swap space; "
                        "HINT: raise the limit on locked memory (ulimit -l) to at least %zu kB",
                        strerror(errno), sizeof *made / 1024 + 1);
    return made;
}

/* A sealed memfd cannot change between here and the next program that reads it. */
static const char *read_handover(int fd)
{
    int seals = tde_libc()->fcntl(fd, F_GET_SEALS);
    uint8_t data[TDE_HANDOVER_MAX];
    const char *problem;
    ssize_t length;

    if (seals < 0 || (seals & TDE_HANDOVER_SEALS) != TDE_HANDOVER_SEALS)
        return "the key hand-over is not a sealed memory file";
    length = tde_libc_read_fully(fd, data, sizeof data, 0);
    problem = length < 0 ? "the key hand-over could not be read"
                         : tde_format_handover_parse(data, (size_t)length, &ring->scope,
                                                     ring->keystore);
    tde_crypto_wipe(data, sizeof data);
    return problem;
}

/* Made before the first fork, so that every backend inherits them. */
static void prepare_ciphers(void)
{
    for (int i = 0; i < MAX_KEYS && ring->slots[i].state == SLOT_READY; i++)
        if (ring->slots[i].key.algorithm != TDE_ALGORITHM_PLAINTEXT)
            tde_keys_cipher(i);
}

const char *tde_keys_open(int fd)
{
    static const uint32_t oids[] = {TDE_DEFAULT_TABLESPACE, TDE_GLOBAL_TABLESPACE};
    const char *problem;

    ring = map_ring();
    if (ring == NULL)
        return "there is no memory for keys";
    problem = read_handover(fd);
    if (problem == NULL && make_ephemeral_key() != 0)
        problem = "no key for temporary files could be made";
    if (problem == NULL && load_key(TDE_OWNER_WAL, 0) < 0)
        problem = "the WAL key is not usable";
    for (size_t i = 0; problem == NULL && i < sizeof oids / sizeof oids[0]; i++)
        if (load_key(TDE_OWNER_TABLESPACE, oids[i]) < 0)
            problem = "the key of a built-in tablespace is not usable";
    if (problem != NULL) {
        if (mprotect(ring, sizeof *ring, PROT_READ | PROT_WRITE) == 0)
            tde_crypto_wipe(ring, sizeof *ring);
        munmap(ring, sizeof *ring);
        ring = NULL;
        return problem;
    }
    prepare_ciphers();
    return NULL;
}
