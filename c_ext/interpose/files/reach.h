/*
 * files/reach.h - how far the file behind a descriptor is known to reach.
 *
 * A write behind the end of a file must look at the file's last unit first (blocks/write.c),
 * so every write would have to ask for the size: 0.65 microseconds beside the 1.5 that AES-256
 * takes for a page.  Files hardly ever get shorter, so what was once seen of a file holds until
 * some process of the server cuts one; all of them share the number of times that this has
 * happened.
 */
#ifndef TDE_INTERPOSE_FILES_REACH_H
#define TDE_INTERPOSE_FILES_REACH_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "interpose/files/table.h"

/* Before the first fork; without it (no memory) nothing is ever known. */
void tde_files_reach_create(void);

/* How often files were cut: to be read before the size that is then noted. */
uint64_t tde_files_reach_cuts(void);

/* The file had at least SIZE bytes after that many cuts. */
void tde_files_reach_note(struct tde_file *file, off_t size, uint64_t cuts);

/* Is OFFSET certainly within the file, or at its end? */
bool tde_files_reach_includes(const struct tde_file *file, off_t offset);

/* A file has become shorter, or may have: to be called after the attempt. */
void tde_files_reach_count_cut(void);

#endif
