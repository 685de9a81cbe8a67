/*
 * format/control.h - the state of a cluster in pg_control: as PostgreSQL sees it, and as stored;
 * and that its pages have checksums.
 *
 * A program without keys must not take a cleanly stopped encrypted cluster for one that it may
 * work on (docs/format.md, section 10).  So of the two states "shut down" the file says "in
 * production", and the true one stands in free bytes of the same sector.  Pure.
 */
#ifndef TDE_FORMAT_CONTROL_H
#define TDE_FORMAT_CONTROL_H

#include <stdbool.h>
#include <stdint.h>

/* What PostgreSQL keeps its data within, because disks write it as a whole. */
#define TDE_CONTROL_SECTOR 512u

/*
 * Store: replace a state "shut down" by "in production" and note the true one.  False, with
 * SECTOR as it was, when there is nothing to hide or the sector is no valid control file.
 */
bool tde_format_control_hide(uint8_t sector[TDE_CONTROL_SECTOR]);

/* Load: the reverse.  False, with SECTOR as it was, when no state is hidden in it. */
bool tde_format_control_show(uint8_t sector[TDE_CONTROL_SECTOR]);

/*
 * Say that every page has a data checksum, in a sector in which no state is hidden.  False, with
 * SECTOR as it was, when it is no valid control file of PostgreSQL 15 to 19.
 */
bool tde_format_control_turn_on_checksums(uint8_t sector[TDE_CONTROL_SECTOR]);

#endif
