/*
 * calls/names.c - calls that change a file's name or its length.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "interpose/blocks/range.h"
#include "interpose/files/table.h"
#include "interpose/keys/wal.h"
#include "interpose/libc/report.h"
#include "interpose/libc/symbols.h"
#include "interpose/libc/transfer.h"
#include "interpose/policy/harm.h"
#include "interpose/policy/open.h"
#include "interpose/policy/role.h"
#include "interpose/policy/segment.h"
#include "interpose/walfiles/compress.h"
#include "interpose/walfiles/tar.h"

static bool is_restored(const char *path)
{
    const char *slash = strrchr(path, '/');

    return strcmp(slash == NULL ? path : slash + 1, TDE_RESTORED_NAME) == 0;
}

/* The identity of both ephemeral names is their digest; equal words, equal file. */
static bool same_identity(const struct tde_file *a, const struct tde_file *b)
{
    return a->encrypted == b->encrypted && a->id.file_class == b->id.file_class &&
           a->id.word[0] == b->id.word[0] && a->id.word[1] == b->id.word[1] &&
           a->id.word[2] == b->id.word[2];
}

static bool is_directory(int dirfd, const char *path)
{
    struct stat status;

    return fstatat(dirfd, path, &status, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(status.st_mode);
}

/*
 * An ephemeral file that gets a name of another identity (xlogtemp.<pid> becomes a WAL
 * segment or a *.history file) is encoded for that name first, and is durable in the
 * new form before the name exists.  A crash in between leaves the ephemeral name, whose
 * content nobody reads again.  All other renames keep the identity (.partial), or keep
 * bytes that are already in the form of the new name (RECOVERYXLOG, archived segments),
 * or recycle a segment whose content no longer matters.
 */
static int recode_for(int old_dir, const char *old_path, int new_dir, const char *new_path)
{
    struct tde_file from;
    struct tde_file to;
    int fd;
    int result;

    if (tde_policy_role() != TDE_ROLE_SERVER)
        return 0;
    if (tde_policy_harm_refuses(old_dir, old_path, false) ||
        tde_policy_harm_refuses(new_dir, new_path, false))
        return -1;
    if (tde_policy_describe(old_dir, old_path, O_RDWR, &from) != 0)
        return -1;
    if (from.encrypted && from.id.file_class != TDE_CLASS_EPHEMERAL)
        return 0; /* Whatever its name is, its bytes stay ciphertext. */
    if (!is_directory(old_dir, old_path) && tde_policy_may_have_name(new_dir, new_path) != 0)
        return -1;
    if (!from.encrypted)
        return is_restored(old_path)
                   ? tde_policy_segment_accept_restored(old_dir, old_path, new_path)
                   : 0;
    if (tde_policy_describe(new_dir, new_path, O_RDWR, &to) != 0)
        return -1;
    if (same_identity(&from, &to))
        return 0;
    if (to.id.file_class == TDE_CLASS_WAL)
        to.key = tde_keys_wal_decide(&to.id);
    fd = tde_libc()->openat(old_dir, old_path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return errno == EISDIR ? 0 : -1; /* A directory of temporary files has no content. */
    result = tde_blocks_recode(&from, to.encrypted ? &to : NULL, fd);
    int saved = errno;
    tde_libc()->close(fd);
    if (result != 0) {
        tde_libc_report("could not encode %s again for its new name %s", old_path, new_path);
        errno = saved;
    }
    return result;
}

TDE_EXPORT int rename(const char *old_path, const char *new_path)
{
    if (recode_for(AT_FDCWD, old_path, AT_FDCWD, new_path) != 0)
        return -1;
    return tde_libc()->rename(old_path, new_path);
}

TDE_EXPORT int renameat(int old_dir, const char *old_path, int new_dir, const char *new_path)
{
    if (recode_for(old_dir, old_path, new_dir, new_path) != 0)
        return -1;
    return tde_libc()->renameat(old_dir, old_path, new_dir, new_path);
}

TDE_EXPORT int renameat2(int old_dir, const char *old_path, int new_dir, const char *new_path,
                         unsigned int flags)
{
    if (tde_libc()->renameat2 == NULL) {
        errno = ENOSYS;
        return -1;
    }
    if (recode_for(old_dir, old_path, new_dir, new_path) != 0)
        return -1;
    return tde_libc()->renameat2(old_dir, old_path, new_dir, new_path, flags);
}

TDE_EXPORT int link(const char *old_path, const char *new_path)
{
    if (recode_for(AT_FDCWD, old_path, AT_FDCWD, new_path) != 0)
        return -1;
    return tde_libc()->link(old_path, new_path);
}

TDE_EXPORT int linkat(int old_dir, const char *old_path, int new_dir, const char *new_path,
                      int flags)
{
    if (recode_for(old_dir, old_path, new_dir, new_path) != 0)
        return -1;
    return tde_libc()->linkat(old_dir, old_path, new_dir, new_path, flags);
}

TDE_EXPORT int ftruncate(int fd, off_t length)
{
    const struct tde_file *file = tde_files_find(fd);

    if (file != NULL && file->compressed)
        return tde_walfiles_compress_refuse(fd);
    if (file != NULL && file->is_tar)
        return tde_walfiles_tar_truncate(fd, length);
    if (file != NULL && !file->control && length >= 0)
        return tde_blocks_truncate(file, fd, length);
    return tde_libc()->ftruncate(fd, length);
}

/* By descriptor when the file is encrypted, so that its last unit can be encoded again. */
TDE_EXPORT int truncate(const char *path, off_t length)
{
    struct tde_file file;
    int fd;
    int result;

    if (tde_policy_role() == TDE_ROLE_NONE)
        return tde_libc()->truncate(path, length);
    if (tde_policy_harm_refuses(AT_FDCWD, path, true))
        return -1;
    if (tde_policy_describe(AT_FDCWD, path, O_RDWR, &file) != 0)
        return -1;
    if (!file.encrypted)
        return tde_libc()->truncate(path, length);
    fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return -1;
    result = ftruncate(fd, length);
    int saved = errno;
    close(fd);
    errno = saved;
    return result;
}

/* New bytes at the end of the file read as zeros; a short last unit is encoded with them. */
static int prepare_growth(const struct tde_file *file, int fd, off_t end)
{
    off_t size = tde_libc_file_size(fd);

    if (size < 0)
        return -1;
    if (file->compressed)
        return tde_walfiles_compress_refuse(fd);
    if (file->is_tar) {
        errno = EOPNOTSUPP; /* Space that is no member would hide where the next one begins. */
        return -1;
    }
    return end > size ? tde_blocks_resize(file, fd, end) : 0;
}

/* Returns an error number and leaves errno alone, as POSIX has it. */
TDE_EXPORT int posix_fallocate(int fd, off_t offset, off_t length)
{
    const struct tde_file *file = tde_files_find(fd);

    if (file != NULL && !file->control && offset >= 0 && length > 0) {
        int saved = errno;

        if (prepare_growth(file, fd, offset + length) != 0) {
            int error = errno;

            errno = saved;
            return error;
        }
    }
    return tde_libc()->posix_fallocate(fd, offset, length);
}

/* Punching, collapsing and inserting move or cut blocks, whose identity is their position. */
TDE_EXPORT int fallocate(int fd, int mode, off_t offset, off_t length)
{
    const struct tde_file *file = tde_files_find(fd);

    if (file != NULL && (mode & ~FALLOC_FL_KEEP_SIZE) != 0) {
        errno = EOPNOTSUPP;
        return -1;
    }
    if (file != NULL && !file->control && mode == 0 && offset >= 0 && length > 0 &&
        prepare_growth(file, fd, offset + length) != 0)
        return -1;
    return tde_libc()->fallocate(fd, mode, offset, length);
}

TDE_EXPORT int ftruncate64(int fd, off_t length) __attribute__((alias("ftruncate")));
TDE_EXPORT int truncate64(const char *path, off_t length) __attribute__((alias("truncate")));
TDE_EXPORT int posix_fallocate64(int fd, off_t offset, off_t length)
    __attribute__((alias("posix_fallocate")));
TDE_EXPORT int fallocate64(int fd, int mode, off_t offset, off_t length)
    __attribute__((alias("fallocate")));
