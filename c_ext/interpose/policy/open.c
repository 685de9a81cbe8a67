/*
 * policy/open.c - open a file and decide, once, how it is read and written.
 */
#include "interpose/policy/open.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

#include "crypto/primitives.h"
#include "interpose/blocks/buffer.h"
#include "interpose/files/reach.h"
#include "interpose/keys/ring.h"
#include "interpose/keys/wal.h"
#include "interpose/libc/report.h"
#include "interpose/libc/symbols.h"
#include "interpose/libc/transfer.h"
#include "interpose/libc/without_links.h"
#include "interpose/policy/cluster.h"
#include "interpose/policy/harm.h"
#include "interpose/policy/messages.h"
#include "interpose/policy/place.h"
#include "interpose/policy/role.h"
#include "interpose/policy/segment.h"
#include "interpose/policy/unknown.h"
#include "interpose/policy/walsender.h"
#include "interpose/walfiles/compress.h"
#include "interpose/walfiles/tar_gzip.h"

/* The first 96 bits of the digest of its name identify an ephemeral file of this start. */
static int digest_name(const char *name, struct tde_identity *id)
{
    uint8_t digest[TDE_DIGEST_SIZE];

    if (tde_crypto_digest(name, strlen(name), digest) != 0)
        return -1;
    memcpy(id->word, digest, sizeof id->word);
    return 0;
}

/* Names that may be of an encrypted class once the directory is known start like this. */
static bool may_be_encrypted(const char *path)
{
    const char *slash = strrchr(path, '/');
    char first = slash == NULL ? path[0] : slash[1];

    return (first >= '0' && first <= '9') || first == 't' || strstr(path, "pgsql_tmp") != NULL;
}

/*
 * A relative path may be too short to tell (a program that has changed into base/5), so
 * it is classified again behind the directory that it is relative to.  *NAME may point
 * into ABSOLUTE.
 */
static enum tde_file_class classify(int dirfd, const char *path, struct tde_identity *id,
                                    const char **name, char absolute[PATH_MAX])
{
    size_t length;
    size_t n;

    absolute[0] = '\0';
    if (tde_format_parse_path(path, id, name) != TDE_CLASS_PLAIN || path[0] == '/' ||
        !may_be_encrypted(path))
        return id->file_class;
    n = tde_libc_descriptor_path(dirfd, absolute);
    if (n == 0)
        return TDE_CLASS_PLAIN;
    length = strlen(path);
    if (n + 1 + length >= PATH_MAX)
        return TDE_CLASS_PLAIN; /* The kernel will refuse it as too long. */
    absolute[n] = '/';
    memcpy(absolute + n + 1, path, length + 1);
    return tde_format_parse_path(absolute, id, name);
}

int tde_policy_may_have_name(int dirfd, const char *path)
{
    struct tde_identity id;
    char absolute[PATH_MAX];
    const char *name;

    if (tde_policy_role() != TDE_ROLE_SERVER)
        return 0;
    return tde_policy_unknown_settle(classify(dirfd, path, &id, &name, absolute), dirfd, path,
                                     true) < 0
               ? -1
               : 0;
}

/*
 * What a program does to a cluster begins with its control file, and a server knows by then what
 * it was started for.  Files for reading may be of an archive, which belongs to no cluster.
 */
static int require_own_cluster(enum tde_access access, int dirfd, const char *path, int flags)
{
    bool control = access == TDE_ACCESS_CONTROL;

    if (tde_policy_role() == TDE_ROLE_SERVER && control) {
        tde_policy_walsender_say_keystore();
        if (!tde_policy_cluster_may_start() || tde_keys_wal_follow_map() != 0)
            return -1;
        if (tde_keys_are_open())
            tde_policy_messages_publish_wal_key();
        return 0;
    }
    if (tde_policy_role() != TDE_ROLE_TOOL ||
        (!control && (access != TDE_ACCESS_ENCRYPTED || (flags & O_ACCMODE) == O_RDONLY)))
        return 0;
    return tde_policy_cluster_is_ours(dirfd, path) ? 0 : -1;
}

int tde_policy_describe(int dirfd, const char *path, int flags, struct tde_file *file)
{
    char absolute[PATH_MAX];
    enum tde_access access;
    const char *name;
    int file_class;

    memset(file, 0, sizeof *file);
    file_class = (int)classify(dirfd, path, &file->id, &name, absolute);
    if (tde_policy_role() == TDE_ROLE_SERVER) {
        file_class = tde_policy_unknown_settle((enum tde_file_class)file_class, dirfd, path,
                                               tde_policy_unknown_makes(flags));
        if (file_class < 0)
            return -1;
    }
    access = tde_policy_access((enum tde_file_class)file_class, path, flags);
    if (require_own_cluster(access, absolute[0] == '\0' ? dirfd : AT_FDCWD,
                            absolute[0] == '\0' ? path : absolute, flags) != 0)
        return -1;
    switch (access) {
    case TDE_ACCESS_RAW:
        return 0;
    case TDE_ACCESS_CONTROL:
        file->control = true;
        file->encrypted = true; /* Which sends reads and writes through their translation. */
        file->key = TDE_KEY_PLAINTEXT;
        return 0;
    case TDE_ACCESS_REFUSED:
        errno = EOPNOTSUPP;
        return -1;
    case TDE_ACCESS_FOREIGN:
        errno = ENOKEY;
        return -1;
    case TDE_ACCESS_COMPRESSED:
        tde_walfiles_compress_parse(path, &file->id);
        file->compressed = true;
        break;
    case TDE_ACCESS_TAR:
        file->is_tar = true;
        file->compressed = strcmp(path + strlen(path) - 3, ".gz") == 0;
        file->id.file_class = TDE_CLASS_WAL; /* Which finds the key; members have identities. */
        break;
    case TDE_ACCESS_ENCRYPTED:
    default:
        break;
    }
    if (absolute[0] != '\0')
        path = absolute;
    file->key = tde_keys_find(&file->id, path[0] == '/' || dirfd == AT_FDCWD ? path : NULL);
    if (file->key == TDE_KEY_PLAINTEXT)
        return 0;
    if (file->key == TDE_KEY_NONE)
        return -1;
    if (name != NULL && digest_name(name, &file->id) != 0) {
        errno = EIO;
        return -1;
    }
    /*
     * A read-modify-write cannot be atomic with a move to the end of the file.  Spill files
     * of logical decoding are appended to, but each by one process.
     */
    if ((flags & O_APPEND) != 0 && file->id.file_class != TDE_CLASS_EPHEMERAL) {
        tde_libc_report("refused to open %s for appending: its writers would not be atomic", path);
        errno = EOPNOTSUPP;
        return -1;
    }
    /* Here a shortage of memory is an error; in the middle of a write it could be a panic. */
    if (tde_keys_cipher(file->key) == NULL)
        return -1;
    if (tde_blocks_buffers() == NULL) {
        errno = ENOMEM;
        return -1;
    }
    file->encrypted = true;
    return 0;
}

/*
 * A relation's file, WAL's or a temporary one, plainly below the data directory: without links and
 * other mounts on its path it is not in the keystore.  That one call of the kernel is all that most
 * files need; to compare the keystore with where a path leads takes five.
 */
static bool may_be_without_links(enum tde_file_class file_class, int dirfd, const char *path)
{
    static const char tablespaces[] = "pg_tblspc/"; /* A link is there always. */

    return tde_policy_role() == TDE_ROLE_SERVER && file_class != TDE_CLASS_PLAIN &&
           tde_policy_place_is_below(dirfd, path) &&
           strncmp(path, tablespaces, sizeof tablespaces - 1) != 0;
}

/* As openat, but the keystore is neither changed nor opened to be written. */
static int open_harmless(enum tde_file_class file_class, int dirfd, const char *path, int flags,
                         mode_t mode)
{
    bool makes = tde_policy_unknown_makes(flags);
    int fd;

    if (may_be_without_links(file_class, dirfd, path) &&
        tde_libc_open_without_links(path, flags, mode, &fd))
        return fd;
    if (makes && tde_policy_harm_refuses(dirfd, path, (flags & O_NOFOLLOW) == 0))
        return -1;
    fd = tde_libc()->openat(dirfd, path, flags, mode);
    if (makes || fd < 0 || (flags & O_ACCMODE) == O_RDONLY ||
        !tde_policy_harm_refuses_open(fd, dirfd, path))
        return fd;
    int saved = errno;
    tde_libc()->close(fd);
    errno = saved;
    return -1;
}

/* pg_control has no units, so it is opened as the caller says. */
static int open_control(int dirfd, const char *path, int flags, mode_t mode,
                        const struct tde_file *file)
{
    int fd = open_harmless(TDE_CLASS_PLAIN, dirfd, path, flags, mode);
    int error = fd < 0 ? 0 : tde_files_set(fd, file);

    if (error == 0)
        return fd;
    tde_libc()->close(fd);
    errno = error;
    return -1;
}

int tde_policy_open_at(int dirfd, const char *path, int flags, mode_t mode)
{
    struct tde_file file;
    int fd;

    if (tde_policy_role() == TDE_ROLE_NONE || path == NULL || (flags & O_PATH) != 0)
        return tde_libc()->openat(dirfd, path, flags, mode);
    if (tde_policy_describe(dirfd, path, flags, &file) != 0)
        return -1;
    if (file.control)
        return open_control(dirfd, path, flags, mode, &file);
    if (file.encrypted && file.is_tar)
        file.write_only = true; /* Its members are not decrypted, and nothing reads them here. */
    if (file.encrypted && file.compressed)
        file.write_only = true; /* What is compressed is not decrypted either. */
    else if (file.encrypted && (flags & O_ACCMODE) == O_WRONLY) {
        /* Part of a block can only be replaced where the rest of it can be read. */
        flags = (flags & ~O_ACCMODE) | O_RDWR;
        file.write_only = true;
    }
    if (file.encrypted && (flags & O_APPEND) != 0) {
        flags &= ~O_APPEND; /* The kernel would append what replaces part of a block. */
        file.append = true;
    }
    fd = open_harmless(file.id.file_class, dirfd, path, flags, mode);
    if (fd < 0)
        return fd;
    if (!file.encrypted) {
        tde_files_clear(fd);
        return fd;
    }
    if ((flags & O_TRUNC) != 0)
        tde_files_reach_count_cut();
    int error = tde_policy_segment_settle(fd, &file) == 0 ? tde_files_set(fd, &file) : errno;
    if (error != 0) {
        tde_libc()->close(fd);
        errno = error;
        return -1;
    }
    /* Other than for writing it from its start, it is opened for an fsync. */
    if (file.compressed && (flags & O_ACCMODE) == O_WRONLY) {
        if (file.is_tar)
            tde_walfiles_tar_gzip_start(fd, &file);
        else
            tde_walfiles_compress_start(fd, path, &file);
    }
    return fd;
}
