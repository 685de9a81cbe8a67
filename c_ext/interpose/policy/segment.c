/*
 * policy/segment.c - see policy/segment.h.
 */
#include "interpose/policy/segment.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include "crypto/primitives.h"
#include "interpose/keys/slots.h"
#include "interpose/keys/wal.h"
#include "interpose/libc/report.h"
#include "interpose/libc/symbols.h"
#include "interpose/libc/transfer.h"
#include "interpose/policy/process.h"
#include "interpose/policy/role.h"

#define PAGE 4096u /* a descriptor with O_DIRECT reads nothing smaller, nor elsewhere */

/* 1 when the segment has a first page, whose beginning is copied; 0 when not; -1 with errno. */
static int read_start(int fd, uint8_t start[TDE_WAL_START_SIZE])
{
    _Alignas(PAGE) uint8_t page[PAGE];
    ssize_t length = tde_libc_read_fully(fd, page, sizeof page, 0);

    if (length < 0)
        return -1;
    if (length < (ssize_t)sizeof page || tde_crypto_is_zero(page, TDE_WAL_START_SIZE))
        return 0;
    memcpy(start, page, TDE_WAL_START_SIZE);
    return 1;
}

int tde_policy_segment_settle(int fd, struct tde_file *file)
{
    uint8_t start[TDE_WAL_START_SIZE];
    tde_key_index found;
    int result;

    if (file->id.file_class != TDE_CLASS_WAL || file->is_tar || file->compressed)
        return 0;
    /* No key fits a segment that was recycled, which holds what it had under its former name. */
    file->key = tde_keys_wal_decide(&file->id);
    if (!tde_keys_wal_may_differ())
        return 0;
    result = read_start(fd, start);
    if (result > 0)
        result = tde_keys_wal_try(&file->id, start, &found);
    if (result > 0)
        file->key = found;
    return result < 0 ? -1 : 0;
}

int tde_policy_segment_accept_restored(int dirfd, const char *path, const char *name)
{
    uint8_t start[TDE_WAL_START_SIZE];
    struct tde_identity id;
    const char *rest;
    tde_key_index found;
    int fd;
    int result;

    if (tde_format_parse_path(name, &id, &rest) != TDE_CLASS_WAL)
        return 0;
    fd = tde_libc()->openat(dirfd, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    result = read_start(fd, start);
    int saved = errno;
    tde_libc()->close(fd);
    errno = saved;
    if (result <= 0)
        return result; /* PostgreSQL knows what to do with zeros, and with half a page. */
    result = tde_keys_wal_try(&id, start, &found);
    if (result == 0) {
        tde_keys_wal_reload();
        result = tde_keys_wal_try(&id, start, &found);
    }
    if (result != 0)
        return result < 0 ? -1 : tde_keys_wal_remember(found);
    tde_libc_report("refused %s from the archive: no key of WAL in %s/keys fits it, so it is "
                    "damaged, of another cluster, or encrypted with a key that is missing; what "
                    "this server has itself was kept; HINT: bring all keys from the newest "
                    "keystore of the servers that write to this archive: tde keystore copy "
                    "BACKUP %s; then start the server again",
                    name, tde_keys_scope()->keystore, tde_keys_scope()->keystore);
    errno = ENOKEY;
    return -1;
}

int tde_policy_segment_may_be_removed(const char *path)
{
    const char *slash = strrchr(path, '/');
    size_t length = slash == NULL ? 0 : (size_t)(slash + 1 - path);
    char restored[PATH_MAX];
    struct tde_identity id;

    /* Most of what is removed is no segment, and the other questions take longer. */
    if (tde_format_parse_segment_name(path + length, &id) != 0 ||
        tde_policy_role() != TDE_ROLE_SERVER || !tde_policy_process_is("startup") ||
        length + sizeof TDE_RESTORED_NAME > sizeof restored)
        return 0;
    memcpy(restored, path, length);
    strcpy(restored + length, TDE_RESTORED_NAME);
    if (access(restored, F_OK) != 0 || !tde_keys_are_open())
        return 0;
    return tde_policy_segment_accept_restored(AT_FDCWD, restored, path);
}
