/*
 * content.c - operations on open files and the bytes in them.
 *
 * What is written to the file /.notes becomes notes and nothing else.
 */
#include "recorder.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define NOTES "/.notes"

struct open_file *remember(int fd, const char *path)
{
    struct open_file *file = malloc(sizeof *file + strlen(path) + 1);

    if (file != NULL) {
        *file = (struct open_file){.fd = fd};
        strcpy(file->path, path);
    }
    return file;
}

int release(const char *path, struct fuse_file_info *info)
{
    (void)path;
    close(open_file(info)->fd);
    free(open_file(info));
    return 0;
}

static int open_at(const char *path, struct fuse_file_info *info, int flags, mode_t mode,
                   int created)
{
    struct fuse_context *caller = fuse_get_context();
    int fd = openat(root, below(path), flags, mode);
    struct open_file *file = fd < 0 ? NULL : remember(fd, path);

    if (file == NULL)
        return -1;
    info->fh = (uintptr_t)file;
    if (strcmp(path, NOTES) == 0)
        return 0;
    if (created && fchown(fd, caller->uid, caller->gid) != 0)
        return -1;
    file->number = journal_number(fd, path, created);
    if (created)
        RECORD('c', file->number, .a = owner(caller->uid, caller->gid), .b = mode & 07777,
               .path = path);
    else if ((flags & O_TRUNC) != 0 && (flags & O_ACCMODE) != O_RDONLY)
        RECORD('t', file->number, .a = 0);
    return 0;
}

int open_existing(const char *path, struct fuse_file_info *info)
{
    const int flags = info->flags & ~(O_CREAT | O_EXCL | O_APPEND | O_DIRECT);

    journal_lock();
    return journal_unlock(open_at(path, info, flags, 0, 0));
}

int create(const char *path, mode_t mode, struct fuse_file_info *info)
{
    struct stat status;
    int created;

    journal_lock();
    created = fstatat(root, below(path), &status, AT_SYMLINK_NOFOLLOW) != 0;
    return journal_unlock(open_at(path, info, info->flags & ~(O_APPEND | O_DIRECT), mode, created));
}

int read_file(const char *path, char *buffer, size_t size, off_t offset,
              struct fuse_file_info *info)
{
    ssize_t result = pread(open_file(info)->fd, buffer, size, offset);

    (void)path;
    return result < 0 ? -errno : (int)result;
}

int write_file(const char *path, const char *data, size_t size, off_t offset,
               struct fuse_file_info *info)
{
    ssize_t result;

    (void)path;
    journal_lock();
    result = pwrite(open_file(info)->fd, data, size, offset);
    if (result > 0 && open_file(info)->number == 0)
        RECORD('N', .data = data, .length = (size_t)result);
    else if (result > 0)
        RECORD((info->flags & (O_DSYNC | O_SYNC)) != 0 ? 'W' : 'w', open_file(info)->number,
               .a = (uint64_t)offset, .path = open_file(info)->path, .data = data,
               .length = (size_t)result);
    return journal_unlock((int)result);
}

int allocate(const char *path, int mode, off_t offset, off_t length, struct fuse_file_info *info)
{
    int result;

    (void)path;
    if (mode != 0)
        return -EOPNOTSUPP; /* Holes are punched by nobody here. */
    journal_lock();
    result = fallocate(open_file(info)->fd, 0, offset, length);
    if (result == 0)
        RECORD('a', open_file(info)->number, .a = (uint64_t)offset, .b = (uint64_t)length);
    return journal_unlock(result);
}

int sync_file(const char *path, int only_data, struct fuse_file_info *info)
{
    (void)path;
    journal_lock();
    if (open_file(info)->number != 0)
        RECORD(only_data ? 'D' : 'f', open_file(info)->number, .path = open_file(info)->path);
    return journal_unlock(0);
}

int change_length(const char *path, off_t length, struct fuse_file_info *info)
{
    int fd, result;

    journal_lock();
    fd = info != NULL ? open_file(info)->fd : openat(root, below(path), O_WRONLY);
    result = fd < 0 ? -1 : ftruncate(fd, length);
    if (result == 0)
        RECORD('t', journal_number(fd, info != NULL ? open_file(info)->path : path, 0),
               .a = (uint64_t)length);
    if (info == NULL && fd >= 0) {
        int saved = errno;

        close(fd);
        errno = saved;
    }
    return journal_unlock(result);
}
