/*
 * policy/cluster.c - see policy/cluster.h.
 */
#include "interpose/policy/cluster.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/handover.h"
#include "format/keymap.h"
#include "interpose/keys/map.h"
#include "interpose/keys/ring.h"
#include "interpose/keys/slots.h"
#include "interpose/libc/report.h"
#include "interpose/libc/symbols.h"
#include "interpose/libc/transfer.h"
#include "interpose/policy/keystore.h"
#include "interpose/policy/process.h"

/* The data directory that PATH lies in, with a slash at its end; "" is the working directory. */
static int find_directory(int dirfd, const char *path, char directory[PATH_MAX])
{
    char whole[PATH_MAX];
    size_t length = 0;
    ssize_t end;

    if (path[0] != '/' && dirfd != AT_FDCWD) {
        length = tde_libc_descriptor_path(dirfd, whole);
        if (length == 0)
            return -1;
        whole[length++] = '/';
    }
    if (length + strlen(path) >= sizeof whole) {
        errno = ENAMETOOLONG;
        return -1;
    }
    strcpy(whole + length, path);
    end = tde_keys_map_directory_length(whole);
    if (end < 0) {
        tde_libc_report("refused to open %s: it is in no data directory, so nobody knows whether "
                        "it has the keys of this program", path);
        errno = ENOKEY;
        return -1;
    }
    memcpy(directory, whole, (size_t)end);
    directory[end] = '\0';
    return 0;
}

/* Read a file of DIRECTORY; its length, or -1 with errno. */
static ssize_t read_file(const char *directory, const char *name, void *to, size_t size)
{
    char path[PATH_MAX];
    ssize_t length;
    int fd;

    if (snprintf(path, sizeof path, "%s%s", directory, name) >= (int)sizeof path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    fd = tde_libc()->open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return -1;
    length = tde_libc_read_fully(fd, to, size, 0);
    int saved = errno;
    tde_libc()->close(fd);
    errno = saved;
    return length;
}

/* Whether the marker of DIRECTORY names our keystore; IS_OLDER is for one without a key map. */
static bool has_our_marker(const char *directory, bool *is_older)
{
    static const char name[] = "\"keystore_uuid\": \"";
    char marker[TDE_MARKER_LIMIT + 1];
    char uuid[TDE_KEYMAP_HEX];
    ssize_t length = read_file(directory, TDE_MARKER_FILE, marker, TDE_MARKER_LIMIT);
    const char *found;

    if (length < 0)
        return false;
    marker[length] = '\0';
    *is_older = tde_format_keymap_is_older(marker);
    found = strstr(marker, name);
    tde_format_keymap_hex(tde_keys_scope()->scope.keystore, uuid);
    return found != NULL && strncmp(found + sizeof name - 1, uuid, sizeof uuid - 1) == 0;
}

static bool refuse(const char *path, const char *directory)
{
    char whole[PATH_MAX];

    if (realpath(directory[0] == '\0' ? "." : directory, whole) == NULL)
        snprintf(whole, sizeof whole, "%s", directory);
    tde_libc_report("refused to open %s: the cluster in %s is not encrypted with keystore %s, "
                    "whose keys this program has; HINT: name the same data directory to the "
                    "program and to \"tde pg exec -D\"; for a cluster that is not encrypted use "
                    "PostgreSQL's own program",
                    path, whole, tde_policy_keystore_uuid());
    errno = ENOKEY;
    return false;
}

static bool has_our_map(const char *path, const char *directory)
{
    uint8_t header[TDE_KEYMAP_UNIT];
    char inside[PATH_MAX];
    struct tde_keys_map map;
    bool is_older = false;
    ssize_t length = read_file(directory, TDE_KEYMAP_FILE, header, sizeof header);

    if (length < 0 && errno != ENOENT && errno != ENOTDIR)
        return false;
    if (length < 0) {
        if (!has_our_marker(directory, &is_older))
            return refuse(path, directory);
        if (is_older)
            return true;
        /* The cluster had a map, so what opens it below says that it is missing. */
    } else if (!tde_format_keymap_is_of(header, (size_t)length, tde_keys_scope()->scope.keystore)) {
        return refuse(path, directory);
    }
    /* The map is looked for in what stands before this. */
    if (snprintf(inside, sizeof inside, "%spg_tblspc/", directory) >= (int)sizeof inside) {
        errno = ENAMETOOLONG;
        return false;
    }
    if (tde_keys_map_open(&map, inside, false) != 0)
        return false;
    tde_keys_map_close(&map);
    return true;
}

bool tde_policy_cluster_is_ours(int dirfd, const char *path)
{
    /* A program works on one cluster, and opens thousands of its files. */
    static char known[PATH_MAX];
    static bool knows;
    char directory[PATH_MAX];

    if (!tde_keys_are_open())
        return true;
    if (find_directory(dirfd, path, directory) != 0)
        return false;
    if (knows && strcmp(directory, known) == 0)
        return true;
    if (!has_our_map(path, directory))
        return false;
    strcpy(known, directory);
    knows = true;
    return true;
}

bool tde_policy_cluster_may_start(void)
{
    if (!tde_keys_are_open() || !tde_policy_process_has_set("IsBinaryUpgrade") ||
        getenv(TDE_UPGRADE_VARIABLE) != NULL)
        return true;
    tde_libc_report("refused to start for an upgrade: this pg_upgrade does not know that the "
                    "cluster is encrypted, and would make one that nobody can read; HINT: use the "
                    "pg_upgrade of a directory of \"tde pg install-bin\", for both versions and "
                    "with the same keystore");
    errno = ENOKEY;
    return false;
}
