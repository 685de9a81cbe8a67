/*
 * keys/map.h - tde.keymap of a data directory (format/keymap.h): reading and appending.
 */
#ifndef TDE_INTERPOSE_KEYS_MAP_H
#define TDE_INTERPOSE_KEYS_MAP_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "format/keymap.h"

struct tde_keys_map {
    char path[PATH_MAX];
    int fd; /* with a lock, when it was opened to append; -1 otherwise */
    uint8_t *content;
    size_t usable; /* bytes of CONTENT that are authentic */
};

/*
 * The length of what stands before the last directory of a cluster ("base", "pg_tblspc", ...) in
 * PATH, or -1: a data directory may itself lie below another's.
 */
ssize_t tde_keys_map_directory_length(const char *path);

/*
 * Read the map of the data directory that PATH begins with: what stands before such a directory
 * in it, or the working directory.  With APPENDS the map stays locked until it is closed; the
 * kernel frees the lock of a process that dies.  0; or -1 with errno, after a report when it is
 * ENOKEY.
 */
int tde_keys_map_open(struct tde_keys_map *map, const char *path, bool appends);

void tde_keys_map_close(struct tde_keys_map *map);

/*
 * Whether the data directory has no map because nobody has made it yet: initdb is at work, or no
 * release that writes one has started the cluster.
 */
bool tde_keys_map_is_not_yet(const char *path);

/* Add an entry durably to a map that was opened to append.  0, or -1 with errno. */
int tde_keys_map_append(struct tde_keys_map *map, const struct tde_keymap_entry *entry);

/* Report that the map does not know a tablespace that exists.  -1 with ENOKEY. */
int tde_keys_map_refuse_unknown(const struct tde_keys_map *map, uint32_t oid);

/*
 * Refuse a map that does not know all tablespaces that exist: it is an older one, and whatever was
 * appended to it would be missing in the newest.  0, or -1 with errno.
 */
int tde_keys_map_require_complete(const struct tde_keys_map *map);

/* Whether the data directory has something under pg_tblspc/<OID>. */
bool tde_keys_map_is_linked(const struct tde_keys_map *map, uint32_t oid);

#endif
