/*
 * names.c - operations on names: directories, links, renames, owners and modes.
 */
#include "recorder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

int get_attributes(const char *path, struct stat *status, struct fuse_file_info *info)
{
    int result = info != NULL ? fstat(open_file(info)->fd, status)
                              : fstatat(root, below(path), status, AT_SYMLINK_NOFOLLOW);

    return result != 0 ? -errno : 0;
}

int read_link(const char *path, char *target, size_t size)
{
    ssize_t length = readlinkat(root, below(path), target, size - 1);

    if (length < 0)
        return -errno;
    target[length] = 0;
    return 0;
}

int open_directory(const char *path, struct fuse_file_info *info)
{
    int fd = openat(root, below(path), O_RDONLY | O_DIRECTORY);
    struct open_file *file = fd < 0 ? NULL : remember(fd, path);

    if (file == NULL)
        return -errno;
    info->fh = (uintptr_t)file;
    return 0;
}

int read_directory(const char *path, void *buffer, fuse_fill_dir_t fill, off_t offset,
                   struct fuse_file_info *info, enum fuse_readdir_flags flags)
{
    /* Opened anew, so that each reader has a position of its own. */
    int fd = openat(open_file(info)->fd, ".", O_RDONLY | O_DIRECTORY);
    DIR *directory = fd < 0 ? NULL : fdopendir(fd);

    (void)path, (void)offset, (void)flags;
    if (directory == NULL)
        return -errno;
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;)
        fill(buffer, entry->d_name, NULL, 0, 0);
    closedir(directory);
    return 0;
}

int make_directory(const char *path, mode_t mode)
{
    struct fuse_context *caller = fuse_get_context();
    int result;

    journal_lock();
    result = mkdirat(root, below(path), mode);
    if (result == 0)
        result = fchownat(root, below(path), caller->uid, caller->gid, 0);
    if (result == 0)
        RECORD('m', .a = owner(caller->uid, caller->gid), .b = mode & 07777, .path = path);
    return journal_unlock(result);
}

int remove_directory(const char *path)
{
    int result;

    journal_lock();
    result = unlinkat(root, below(path), AT_REMOVEDIR);
    if (result == 0)
        RECORD('d', .path = path);
    return journal_unlock(result);
}

int remove_name(const char *path)
{
    int result;

    journal_lock();
    result = unlinkat(root, below(path), 0);
    if (result == 0)
        RECORD('u', .path = path);
    return journal_unlock(result);
}

int make_link(const char *target, const char *path)
{
    struct fuse_context *caller = fuse_get_context();
    int result;

    journal_lock();
    result = symlinkat(target, root, below(path));
    if (result == 0)
        result = fchownat(root, below(path), caller->uid, caller->gid, AT_SYMLINK_NOFOLLOW);
    if (result == 0)
        RECORD('s', .a = owner(caller->uid, caller->gid), .path = path, .second = target);
    return journal_unlock(result);
}

int rename_file(const char *from, const char *to, unsigned flags)
{
    int result;

    if ((flags & RENAME_EXCHANGE) != 0)
        return -EINVAL; /* The journal has no word for it, and nobody asks. */
    journal_lock();
    result = renameat2(root, below(from), root, below(to), flags);
    if (result == 0)
        RECORD('r', .path = from, .second = to);
    return journal_unlock(result);
}

int link_file(const char *from, const char *to)
{
    int result;

    journal_lock();
    result = linkat(root, below(from), root, below(to), 0);
    if (result == 0)
        RECORD('l', .path = from, .second = to);
    return journal_unlock(result);
}

int change_mode(const char *path, mode_t mode, struct fuse_file_info *info)
{
    int result;

    journal_lock();
    path = info != NULL ? open_file(info)->path : path;
    result = info != NULL ? fchmod(open_file(info)->fd, mode)
                          : fchmodat(root, below(path), mode, 0);
    if (result == 0)
        RECORD('p', .a = mode & 07777, .path = path);
    return journal_unlock(result);
}

int change_owner(const char *path, uid_t uid, gid_t gid, struct fuse_file_info *info)
{
    int result;

    journal_lock();
    path = info != NULL ? open_file(info)->path : path;
    result = info != NULL ? fchown(open_file(info)->fd, uid, gid)
                          : fchownat(root, below(path), uid, gid, AT_SYMLINK_NOFOLLOW);
    if (result == 0)
        RECORD('o', .a = owner(uid, gid), .path = path);
    return journal_unlock(result);
}

int sync_directory(const char *path, int only_data, struct fuse_file_info *info)
{
    (void)path, (void)only_data;
    journal_lock();
    RECORD('F', .path = open_file(info)->path);
    return journal_unlock(0);
}

/* Times are passed on and not written down: nothing that is tested depends on them. */
int set_times(const char *path, const struct timespec times[2], struct fuse_file_info *info)
{
    int result = info != NULL ? futimens(open_file(info)->fd, times)
                              : utimensat(root, below(path), times, AT_SYMLINK_NOFOLLOW);

    return result != 0 ? -errno : 0;
}
