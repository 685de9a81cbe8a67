/*
 * policy/combine.c - see policy/combine.h.
 *
 * PostgreSQL compares system identifiers, timelines and positions.  That does not tell two servers
 * apart that were promoted to the same timeline, nor a cluster before and after its encryption.
 */
#include "interpose/policy/combine.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "format/keymap.h"
#include "interpose/libc/report.h"
#include "interpose/libc/symbols.h"
#include "interpose/libc/transfer.h"

struct backup {
    const struct backup *before; /* the one that was named before it */
    const char *directory;
    uint8_t *map; /* NULL when it has none */
    size_t usable;
};

__attribute__((noreturn)) static void refuse(void)
{
    tde_libc_report("refused to combine these backups: nothing was written");
    _exit(1);
}

__attribute__((noreturn)) static void fail(const char *directory, const char *problem)
{
    tde_libc_report("the key map of %s cannot be used: %s", directory, problem);
    refuse();
}

static void read_map(struct backup *backup, int fd)
{
    off_t size = tde_libc_file_size(fd);

    if (size < 0 || size > (off_t)TDE_KEYMAP_LONGEST)
        fail(backup->directory, size < 0 ? strerror(errno) : "it is too long");
    backup->map = malloc((size_t)size + 1);
    if (backup->map == NULL)
        fail(backup->directory, strerror(errno));
    for (off_t at = 0; at < size;) {
        ssize_t got = tde_libc()->pread(fd, backup->map + at, (size_t)(size - at), at);

        if (got <= 0)
            fail(backup->directory, got < 0 ? strerror(errno) : "it became shorter");
        at += got;
    }
    backup->usable = tde_format_keymap_length(backup->map, (size_t)size);
    if (backup->usable == 0)
        fail(backup->directory, "it is not a key map of this version of tde");
}

/* Whether an argument is the directory of a backup.  The output is empty, or not there yet. */
static bool is_backup(const char *argument)
{
    char path[PATH_MAX];

    return snprintf(path, sizeof path, "%s/PG_VERSION", argument) < (int)sizeof path &&
           access(path, F_OK) == 0;
}

static struct backup *open_backup(const char *directory, const struct backup *before)
{
    struct backup *backup = calloc(1, sizeof *backup);
    char path[PATH_MAX];
    int fd;

    if (backup == NULL ||
        snprintf(path, sizeof path, "%s/" TDE_KEYMAP_FILE, directory) >= (int)sizeof path)
        fail(directory, strerror(backup == NULL ? ENOMEM : ENAMETOOLONG));
    backup->before = before;
    backup->directory = directory;
    fd = tde_libc()->open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 && errno != ENOENT)
        fail(directory, strerror(errno));
    if (fd >= 0) {
        read_map(backup, fd);
        tde_libc()->close(fd);
    }
    return backup;
}

static void compare(const struct backup *one, const struct backup *other)
{
    static const char advice[] = "combine backups of one server, or take a full backup again";
    uint32_t oid;

    if (one->map == NULL && other->map == NULL)
        return;
    if (one->map == NULL || other->map == NULL) {
        tde_libc_report("%s has no key map, and %s has one: the cluster was encrypted or decrypted "
                        "between these backups, or the older one is of an older release of tde; "
                        "HINT: take a full backup again",
                        (one->map == NULL ? one : other)->directory,
                        (one->map == NULL ? other : one)->directory);
        refuse();
    }
    if (!tde_format_keymap_same_keystore(one->map, other->map)) {
        tde_libc_report("%s and %s belong to different keystores; HINT: %s", one->directory,
                        other->directory, advice);
        refuse();
    }
    oid = tde_format_keymap_conflict(one->map, one->usable, other->map, other->usable);
    if (oid != 0) {
        tde_libc_report("tablespace %u has one key in %s and another in %s: it was given another "
                        "key (tde tablespace rekey) between these backups, or their servers made a "
                        "tablespace with this OID after they had parted; HINT: %s",
                        oid, one->directory, other->directory, advice);
        refuse();
    }
}

void tde_policy_combine_require_same_keys(void)
{
    static char arguments[1 << 18];
    static struct backup *last; /* The maps are small, and stay to the end of the program. */
    int fd = tde_libc()->open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? -1 : tde_libc()->read(fd, arguments, sizeof arguments);

    if (fd >= 0)
        tde_libc()->close(fd);
    if (length <= 0 || length == (ssize_t)sizeof arguments) {
        tde_libc_report("could not read the command line of this program");
        refuse();
    }
    for (const char *arg = arguments; arg < arguments + length; arg += strlen(arg) + 1) {
        if (!is_backup(arg))
            continue;
        last = open_backup(arg, last);
        for (const struct backup *one = last->before; one != NULL; one = one->before)
            compare(one, last);
    }
}
