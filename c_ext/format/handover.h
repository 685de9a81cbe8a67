/*
 * format/handover.h - how the key of an open keystore reaches a program.
 *
 * Pure: the caller has the memory file.  The bytes are those of docs/format.md, section 8;
 * tde/keystore/handover.py is the same in Python.
 */
#ifndef TDE_FORMAT_HANDOVER_H
#define TDE_FORMAT_HANDOVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "format/keyrecord.h"

/* The environment variable with the number of the memory file's descriptor. */
#define TDE_HANDOVER_VARIABLE "TDE_IO_KEYS_FD"

/*
 * Set by a pg_upgrade that has compared the keys of both clusters, for the servers that it starts.
 */
#define TDE_UPGRADE_VARIABLE "TDE_IO_UPGRADE"

#define TDE_HANDOVER_KEYSTORE 16u /* offset of the keystore's UUID */
#define TDE_HANDOVER_PATH 82u /* offset of the keystore's path, which comes last */
#define TDE_HANDOVER_PATH_MAX 4096u
#define TDE_HANDOVER_CLOSED 1u /* the only flag */
#define TDE_HANDOVER_MAX (TDE_HANDOVER_PATH + TDE_HANDOVER_PATH_MAX)

/* With all of them (fcntl.h) nobody can change the file on its way to the program that reads it. */
#define TDE_HANDOVER_SEALS (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)

/*
 * What is wrong with a hand-over; NULL when *SCOPE, *CLOSED (whether sessions have to wait until the
 * keystore is opened) and PATH, the keystore's, were filled, which stay as they were otherwise.  The
 * text names no secret.
 */
const char *tde_format_handover_parse(const uint8_t *data, size_t length,
                                      struct tde_key_scope *scope, bool *closed,
                                      char path[TDE_HANDOVER_PATH_MAX + 1]);

/* Write the hand-over of a keystore at PATH, of at most TDE_HANDOVER_PATH_MAX bytes; its length. */
size_t tde_format_handover_write(uint8_t to[TDE_HANDOVER_MAX], const struct tde_key_scope *scope,
                                 bool closed, const char *path);

#endif
