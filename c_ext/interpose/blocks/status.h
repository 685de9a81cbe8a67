/*
 * blocks/status.h - what a running server tells tde about itself.
 *
 * /proc/<pid> of a server with keys is closed, so the server publishes what tde needs in a file of
 * memory that only its own user may open: /dev/shm/tde-<pid namespace>-<pid>-<random number>.  That
 * the file exists, belongs to the process's user and names the process proves that the interposer
 * is loaded in it and has keys: nobody but that user, who could do anything to the server, can
 * make it.  tde/postgres/server/published.py has the same layout.
 */
#ifndef TDE_INTERPOSE_BLOCKS_STATUS_H
#define TDE_INTERPOSE_BLOCKS_STATUS_H

#include <stdatomic.h>
#include <stdint.h>

#include "crypto/exchange.h"
#include "format/handover.h"

#define TDE_STATUS_STRIPES 64u
#define TDE_STATUS_WORDS 8u
#define TDE_STATUS_PATH 4096u
#define TDE_STATUS_PROBLEM 128u
#define TDE_STATUS_LOCKED 62u /* as many as are published */
#define TDE_STATUS_VERSION 64u

struct tde_status {
    _Atomic uint64_t magic; /* written last */
    uint64_t pid;
    uint64_t start_time;                 /* field 22 of /proc/<pid>/stat */
    _Atomic uint64_t directory_device;   /* of the working directory, which is the data directory */
    _Atomic uint64_t directory_inode;
    uint64_t stripes;
    uint64_t words_per_stripe;
    uint64_t bytes_before_stripes;
    char standard_error[TDE_STATUS_PATH]; /* the file that the server was started to log to */
    char libcrypto[TDE_STATUS_PATH];
    char openssl_capabilities[256]; /* the variable that can forbid OpenSSL the AES instructions */
    /* For messages to the running server (policy/messages.h). */
    uint8_t keystore[TDE_UUID_SIZE];
    uint8_t exchange_key[TDE_EXCHANGE_SIZE];   /* public */
    uint8_t master_key_id[TDE_UUID_SIZE];      /* of the newest that the server has */
    _Atomic uint64_t message;                  /* number of the last one that was looked at */
    char message_problem[TDE_STATUS_PROBLEM];  /* what was wrong with it; empty when it was done */
    char keystore_path[TDE_STATUS_PATH + 8];   /* TDE_HANDOVER_PATH_MAX bytes and a zero */
    uint8_t exchange_code[TDE_DIGEST_SIZE];    /* proves whose public key it is */
    uint8_t wal_key_id[TDE_UUID_SIZE];         /* of new WAL segments; zeros for the first key */
    uint32_t closed;                           /* whether the keystore is */
    uint32_t locked[TDE_STATUS_LOCKED];        /* tablespaces; 0 in the places that are free */
    uint32_t reserved;
    uint64_t wal_key_from;                     /* the segment that it counts from */
    char libcrypto_version[TDE_STATUS_VERSION]; /* of what is loaded; the file may be newer */
    _Atomic uint64_t stripe[TDE_STATUS_STRIPES][TDE_STATUS_WORDS];
};

/* Publish the status of this server; NULL, after a report, when that is not possible. */
struct tde_status *tde_blocks_status_create(void);

/* The status that this process has published; NULL in other processes, and when it has none. */
struct tde_status *tde_blocks_status_own(void);

/* Where it is; empty when this process has published none. */
const char *tde_blocks_status_path(void);

/* A session has closed the keystore; any process of the server may tell. */
void tde_blocks_status_closed(void);

/* The working directory has changed. */
void tde_blocks_status_directory(void);

#endif
