/*
 * recorder.h - what the operations of the file system share: the directory below, open files.
 */
#ifndef RECORDER_H
#define RECORDER_H

#define FUSE_USE_VERSION 31
#define _GNU_SOURCE
#include <fuse.h>
#include <stdint.h>

#include "journal.h"

/* The backing directory, open. */
extern int root;

/* An open file or directory.  It may have been renamed or removed since it had this path. */
struct open_file {
    int fd;
    uint32_t number; /* 0 for a directory and for the file of notes */
    char path[];
};

static inline struct open_file *open_file(struct fuse_file_info *info)
{
    return (struct open_file *)(uintptr_t)info->fh;
}

/* PATH without its slash, for the calls that start at the backing directory. */
static inline const char *below(const char *path)
{
    return path[1] != 0 ? path + 1 : ".";
}

static inline uint64_t owner(uint32_t uid, uint32_t gid)
{
    return (uint64_t)uid << 32 | gid;
}

/* Return what INFO remembers of an open file, or NULL and errno. */
struct open_file *remember(int fd, const char *path);
int release(const char *path, struct fuse_file_info *info);

/* names.c: names, and what is known of a file without its content. */
int get_attributes(const char *path, struct stat *status, struct fuse_file_info *info);
int read_link(const char *path, char *target, size_t size);
int open_directory(const char *path, struct fuse_file_info *info);
int read_directory(const char *path, void *buffer, fuse_fill_dir_t fill, off_t offset,
                   struct fuse_file_info *info, enum fuse_readdir_flags flags);
int sync_directory(const char *path, int only_data, struct fuse_file_info *info);
int make_directory(const char *path, mode_t mode);
int remove_directory(const char *path);
int remove_name(const char *path);
int make_link(const char *target, const char *path);
int rename_file(const char *from, const char *to, unsigned flags);
int link_file(const char *from, const char *to);
int change_mode(const char *path, mode_t mode, struct fuse_file_info *info);
int change_owner(const char *path, uid_t uid, gid_t gid, struct fuse_file_info *info);
int set_times(const char *path, const struct timespec times[2], struct fuse_file_info *info);

/* content.c: open files, and the bytes in them. */
int open_existing(const char *path, struct fuse_file_info *info);
int create(const char *path, mode_t mode, struct fuse_file_info *info);
int read_file(const char *path, char *buffer, size_t size, off_t offset,
              struct fuse_file_info *info);
int write_file(const char *path, const char *data, size_t size, off_t offset,
               struct fuse_file_info *info);
int change_length(const char *path, off_t length, struct fuse_file_info *info);
int allocate(const char *path, int mode, off_t offset, off_t length, struct fuse_file_info *info);
int sync_file(const char *path, int only_data, struct fuse_file_info *info);

#endif
