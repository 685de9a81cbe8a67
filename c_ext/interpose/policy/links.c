/*
 * policy/links.c - see policy/links.h.
 */
#include "interpose/policy/links.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include "format/identity.h"
#include "interpose/keys/decide.h"
#include "interpose/keys/slots.h"
#include "interpose/libc/report.h"
#include "interpose/libc/symbols.h"
#include "interpose/policy/process.h"
#include "interpose/policy/role.h"

/*
 * Recovery makes the links of tablespace_map before it replays anything, and then gives that
 * file another name.  It says InRecovery from the start, so only the file tells the two apart.
 */
static enum tde_keys_moment moment(void)
{
    if (tde_policy_process_has_set("IsBinaryUpgrade"))
        return TDE_KEYS_UPGRADE;
    if (!tde_policy_process_has_set("InRecovery") && !tde_policy_process_is("startup"))
        return TDE_KEYS_COMMAND;
    return access("tablespace_map", F_OK) == 0 ? TDE_KEYS_RESTORE : TDE_KEYS_REPLAY;
}

static bool is_ours(const char *link, uint32_t *oid)
{
    return tde_policy_role() == TDE_ROLE_SERVER &&
           tde_format_parse_tablespace_link(link, oid);
}

int tde_policy_links_begin(const char *location, const char *link, int *lock)
{
    uint32_t oid;

    *lock = -1;
    return is_ours(link, &oid) ? tde_keys_decide(moment(), link, oid, location, lock) : 0;
}

void tde_policy_links_end(int lock)
{
    int saved = errno;

    if (lock >= 0)
        tde_libc()->close(lock);
    errno = saved;
}

/* PATH, or with PARENT what it lies in.  What may not be opened cannot be synced. */
static int sync_directory(const char *path, bool parent)
{
    char directory[PATH_MAX];
    const char *slash = strrchr(path, '/');
    size_t length = strlen(path);
    int result;
    int fd;

    if (parent)
        length = slash == NULL ? 0 : slash == path ? 1 : (size_t)(slash - path);
    if (length == 0 || length >= sizeof directory)
        return 0;
    memcpy(directory, path, length);
    directory[length] = '\0';
    fd = tde_libc()->open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    result = fsync(fd);
    int saved = errno;
    tde_libc()->close(fd);
    if (result == 0 || saved == EINVAL || saved == EBADF) /* A file system without it. */
        return 0;
    tde_libc_report("could not sync directory %s: %s", directory, strerror(saved));
    errno = saved;
    return -1;
}

int tde_policy_links_sync(const char *location, const char *link)
{
    uint32_t oid;

    if (!is_ours(link, &oid))
        return 0;
    return sync_directory(location, false) == 0 && sync_directory(location, true) == 0 &&
                   sync_directory(link, true) == 0
               ? 0
               : -1;
}

void tde_policy_links_removed(const char *link)
{
    uint32_t oid;

    if (is_ours(link, &oid))
        tde_keys_slots_drop(oid);
}
