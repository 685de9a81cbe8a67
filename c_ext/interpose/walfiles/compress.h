/*
 * walfiles/compress.h - WAL that pg_receivewal compresses is encrypted before it is compressed.
 *
 * The file is an ordinary gzip or lz4 file of the bytes that the segment's own file would hold.
 * So what goes into the compressor is replaced (walfiles/gzip.c, walfiles/lz4.c), and nothing may
 * reach such a file on another way: a program whose compressor is not seen fails with EPERM.
 */
#ifndef TDE_INTERPOSE_WALFILES_COMPRESS_H
#define TDE_INTERPOSE_WALFILES_COMPRESS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "crypto/sizes.h"
#include "format/identity.h"
#include "format/stream.h"
#include "interpose/files/table.h"
#include "interpose/keys/ring.h"

enum tde_compressor {
    TDE_COMPRESSOR_NONE,
    TDE_COMPRESSOR_GZIP,
    TDE_COMPRESSOR_LZ4,
};

/* How the segment of WAL at PATH is compressed, by its name; its identity goes to *ID. */
enum tde_compressor tde_walfiles_compress_parse(const char *path, struct tde_identity *id);

#define TDE_COMPRESS_CHUNK 16384u

/*
 * The compressed segment that is being written.  There is one: PostgreSQL's programs receive
 * one stream in one thread, into one segment after the other.
 */
struct tde_compressed {
    int fd;
    enum tde_compressor compressor;
    tde_key_index key;
    void *handle;       /* of the compressor: gzFile or the context of lz4; NULL without one */
    bool inside;        /* the compressor itself is running, with bytes that are encrypted */
    bool broken;        /* a call has failed, so nothing more may come */
    bool has_rest;      /* what is held back is in the file, behind the compressor's bytes */
    const void *output; /* what lz4 has compressed and its caller must write next */
    size_t output_length;
    bool rest_is_due;   /* ... and then what is held back */
    bool end_is_due;    /* ... and then the end of the file */
    struct tde_stream stream;
    uint8_t encoded[TDE_COMPRESS_CHUNK + TDE_BLOCK_SIZE];
};

/* The segment whose compressor has this handle, or NULL; NULL also within the compressor. */
struct tde_compressed *tde_walfiles_compressed_find(const void *handle);

/* The segment that waits for the handle of its compressor, or NULL. */
struct tde_compressed *tde_walfiles_compressed_waiting(enum tde_compressor compressor);

/* FD was opened to write FILE, a compressed segment at PATH, from its start. */
void tde_walfiles_compress_start(int fd, const char *path, const struct tde_file *file);

/* Encode up to TDE_COMPRESS_CHUNK bytes to segment->encoded.  Returns their length or -1. */
ssize_t tde_walfiles_compress_encode(struct tde_compressed *segment, const uint8_t *from,
                                     size_t length);

/* The same with what is held back, completed with zeros. */
ssize_t tde_walfiles_compress_encode_rest(struct tde_compressed *segment);

/*
 * Everything that was compressed is in the file, up to a byte: write what is held back behind
 * it, so that an fsync makes durable what it reports, and go back.  0, or -1 with errno.
 */
int tde_walfiles_compress_write_rest(struct tde_compressed *segment);

/* How many bytes must go through the compressor alone, to replace what was written of the rest. */
size_t tde_walfiles_compress_replaces(const struct tde_compressed *segment, size_t length);

/* The compressor has written its last byte: what was in the file behind it goes. */
int tde_walfiles_compress_cut(int fd);

/* As write, for a compressed segment: only what comes out of its compressor. */
ssize_t tde_walfiles_compress_write(int fd, const void *from, size_t length);

/* Says why; -1 with EPERM. */
int tde_walfiles_compress_refuse(int fd);

/* The function of this name in LIBRARY, which the program has loaded, or NULL. */
void *tde_walfiles_compress_next(const char *name, const char *library);

#endif
