/*
 * format/identity.h - which block of which file a piece of ciphertext is.
 *
 * A block is encrypted under a tweak that is its identity, never its path, inode or
 * directory, so raw copies made by any tool stay valid (docs/format.md, section 2).
 * This module is pure: no I/O, no allocation, no state.  It is the only parser of
 * PostgreSQL file names in the product; Python reaches it through tde._core.
 */
#ifndef TDE_FORMAT_IDENTITY_H
#define TDE_FORMAT_IDENTITY_H

#include <stdbool.h>
#include <stdint.h>

#include "crypto/sizes.h"

/*
 * The class is the last byte of every tweak and so separates the identities of
 * different kinds of files that share a key.
 */
enum tde_file_class {
    TDE_CLASS_PLAIN = 0,
    TDE_CLASS_RELATION = 1,
    TDE_CLASS_WAL = 2,
    TDE_CLASS_TEMP_RELATION = 3, /* t<backend>_<relfilenumber>: numbers may equal a relation's */
    TDE_CLASS_EPHEMERAL = 4,
};

enum tde_fork {
    TDE_FORK_MAIN = 0,
    TDE_FORK_FSM = 1,
    TDE_FORK_VM = 2,
    TDE_FORK_INIT = 3,
};

/*
 * The identity of a file.  Which of the three words are used depends on the class:
 *
 *   relation            word[0] database OID   word[1] relfilenumber   word[2] unused
 *   WAL segment         word[0] timeline       word[1] log             word[2] seg
 *   ephemeral           word[0..2] the first 96 bits of the digest of the file's name;
 *                       the last 8 bits of them are not used
 */
struct tde_identity {
    enum tde_file_class file_class;
    uint8_t fork;
    uint32_t tablespace;   /* chooses the key; not part of the tweak */
    uint32_t word[3];
    uint32_t first_block;  /* block number in the fork of the file's first block */
};

/*
 * Classify PATH, which may be relative or absolute, and fill *ID.  Returns the class,
 * which is also stored in *ID.  For an ephemeral file *NAME points at the part of PATH
 * that names it within the data directory, to be digested into the words by the
 * caller; for every other class it is NULL.
 */
enum tde_file_class tde_format_parse_path(const char *path, struct tde_identity *id,
                                          const char **name);

/*
 * Whether PATH is the name of a tablespace in the data directory, pg_tblspc/<OID>, and nothing
 * below it; *OID is then set.
 */
bool tde_format_parse_tablespace_link(const char *path, uint32_t *oid);

/*
 * Write the tweak of block BLOCK of the file (counted from the file's own first block)
 * to TWEAK.  Returns 0, or -1 when the block number does not fit the identity.
 */
int tde_format_tweak(const struct tde_identity *id, uint64_t block,
                     uint8_t tweak[TDE_TWEAK_SIZE]);

/* Parse the 24 hexadecimal digits of a WAL segment's name at NAME; 0, or -1 if it is none. */
int tde_format_parse_segment_name(const char *name, struct tde_identity *id);

#endif
