/*
 * format/page.h - what can be told about a block without PostgreSQL: whether it is a page of a
 * relation or of the WAL, and whether its bytes look like ciphertext; and its checksum.  Pure.
 *
 * Layouts and the checksum are those of PostgreSQL's bufpage.h, xlog_internal.h and
 * checksum_impl.h (15 to 19), in the byte order of this machine, as the server writes them.
 */
#ifndef TDE_FORMAT_PAGE_H
#define TDE_FORMAT_PAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "crypto/sizes.h"
#include "format/identity.h"

/* The unit in which disks promise to write, and in which a stretch of bytes is judged. */
#define TDE_SECTOR_SIZE 512u

/* What is needed of a WAL page's header to place it: all of it is in one AES block. */
struct tde_wal_page_header {
    uint16_t magic;
    uint16_t info;
    uint32_t timeline;
    uint64_t address;
};

/* The header that PageIsVerified accepts; random bytes are taken for one once in 2^40. */
bool tde_format_page_has_header(const uint8_t page[TDE_BLOCK_SIZE]);

/* The checksum of block NUMBER of a fork; the bytes of the field itself count as zero. */
uint16_t tde_format_page_checksum(const uint8_t page[TDE_BLOCK_SIZE], uint32_t number);

bool tde_format_page_has_checksum(const uint8_t page[TDE_BLOCK_SIZE], uint32_t number);

/*
 * Give block NUMBER of a fork its checksum, as `pg_checksums --enable` does; a page of zeros has
 * none.  False, with the page as it was, when the server would refuse to read it anyhow.
 */
bool tde_format_page_set_checksum(uint8_t page[TDE_BLOCK_SIZE], uint32_t number);

/* The header of a segment's first page, which says more than the others'. */
#define TDE_WAL_START_SIZE 48u /* whole AES blocks; 40 bytes of them are the header */

/* BYTES hold at least one AES block. */
struct tde_wal_page_header tde_format_wal_page_header(const uint8_t *bytes);

/*
 * Whether BYTES are the beginning of the WAL segment ID, whatever server wrote it.  Over 100 bits are
 * compared, so no wrong key gives them.  The timeline is not: the first segment of a new one begins
 * with pages of the old one.
 */
bool tde_format_wal_is_start(const uint8_t bytes[TDE_WAL_START_SIZE], const struct tde_identity *id);

/* The sum of the squares of how often each byte value occurs in a sector. */
uint32_t tde_format_sector_skew(const uint8_t sector[TDE_SECTOR_SIZE]);

/*
 * Whether every sector of LENGTH bytes (a multiple of TDE_SECTOR_SIZE) is zeros or could be
 * ciphertext.  Ciphertext is refused with a probability below 2^-50 per sector; a sector
 * with 40 equal bytes, or with half a sector of text, is always refused.
 */
bool tde_format_looks_random(const uint8_t *data, size_t length);

#endif
