/*
 * format/tar.h - which bytes of a pg_wal.tar are WAL of which segment.
 *
 * pg_basebackup writes each member as a header of 512 bytes whose size is 0, the member's
 * bytes, zeros up to a multiple of 512, and the header again with the size filled in
 * (walmethods.c).  In a plain tar file that second header goes over the first; in a
 * compressed one it follows the member, but describes the same place.
 *
 * This module is pure: no I/O, no allocation.  It knows what PostgreSQL streams into such a
 * file and refuses everything else, because WAL that is taken for something else would
 * be stored in plaintext.
 */
#ifndef TDE_FORMAT_TAR_H
#define TDE_FORMAT_TAR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "format/identity.h"

#define TDE_TAR_BLOCK 512u
#define TDE_TAR_MAX_SEGMENT (1024u * 1024u * 1024u) /* PostgreSQL's largest WAL segment */

enum tde_tar_kind {
    TDE_TAR_SEGMENT, /* a WAL segment, under its name or with .partial behind it */
    TDE_TAR_HISTORY, /* a timeline history file, plain by design, also with .tmp behind it */
    TDE_TAR_STATUS,  /* archive_status/NAME.done: has no bytes */
};

/* What a header says. */
struct tde_tar_member {
    enum tde_tar_kind kind;
    struct tde_identity id; /* of a segment; of a history file only its timeline, in word 2 */
    uint64_t size;          /* 0 until the member is complete */
};

/*
 * Read the header at BLOCK, of 512 bytes.  Returns NULL, or why it is none that PostgreSQL
 * writes for WAL; *MEMBER then has no meaning.
 */
const char *tde_format_tar_parse(const uint8_t *block, struct tde_tar_member *member);

/* Where the writer of a file is.  Zeros are the state of one that begins. */
struct tde_tar {
    bool open;       /* a member was begun and its header has not been completed */
    bool ended;      /* the zeros at the end of the archive have begun */
    uint64_t header; /* where the header of the open member is */
    struct tde_tar_member member;
};

enum tde_tar_place {
    TDE_TAR_AT_HEADER,  /* for tde_format_tar_complete when a member is open, else for
                           tde_format_tar_begin */
    TDE_TAR_IN_SEGMENT, /* WAL at offset - (header + 512) of the segment member.id */
    TDE_TAR_IN_PLAIN,   /* to be stored as it is */
    TDE_TAR_NOWHERE,    /* not a place where PostgreSQL writes */
};

/*
 * What is written at OFFSET of a file that is SIZE bytes long.  Returns how many of the LENGTH
 * bytes belong to *PLACE; the rest must be asked for again, after a header was accepted.
 */
size_t tde_format_tar_locate(const struct tde_tar *tar, uint64_t offset, uint64_t size,
                             size_t length, enum tde_tar_place *place);

/*
 * A block at OFFSET, the end of the file, while no member is open: it begins a member, or is
 * one of the zeros at the end of the archive.  NULL, or why it is neither; *TAR is then as before.
 */
const char *tde_format_tar_begin(struct tde_tar *tar, uint64_t offset, const uint8_t *block);

/*
 * The header of the open member again, now that it is complete, in a file that is SIZE bytes
 * long.  NULL, or why it does not fit what was written; *TAR is then as before.
 */
const char *tde_format_tar_complete(struct tde_tar *tar, uint64_t size, const uint8_t *block);

/* The file is cut to LENGTH: 0 when that removes the open member, else -1. */
int tde_format_tar_cut(struct tde_tar *tar, uint64_t length);

#endif
