/*
 * recorder.c - a file system that passes everything on to a directory and writes down what changed.
 *
 *   recorder BACKING JOURNAL MOUNTPOINT [allow_other]
 *
 * The journal says in which order the programs on it wrote, synced and renamed, so that the
 * states that a power cut may leave can be built afterwards (disk.py).  It begins with the
 * 8 bytes "TDEPOWR" 1.  Then one record follows the other, all numbers little-endian:
 *
 *   1 byte   what happened, see below      2 bytes  length of the path
 *   4 bytes  number of the file            2 bytes  length of the second path
 *   8 bytes  A                             4 bytes  length of the data
 *   8 bytes  B                             then path, second path and data
 *
 *   k  a file that was there before        path
 *   c  file created                        A owner << 32 | group, B mode, path
 *   w  written; W by O_SYNC or O_DSYNC     A offset, data
 *   t  truncated                           A length
 *   a  allocated                           A offset, B length
 *   f  fsync; D fdatasync                  path
 *   F  fsync of a directory                path
 *   m  directory made                      A owner << 32 | group, B mode, path
 *   s  symbolic link made                  A owner << 32 | group, path, its target as second path
 *   r  renamed, l linked                   path, second path
 *   u  unlinked, d directory removed       path
 *   p  mode changed                        A mode, path
 *   o  owner changed                       A owner << 32 | group, path; 2^32-1 leaves one as it is
 *   N  a note: what a client was told      data
 *
 * What is written to the file /.notes becomes notes and nothing else.  Paths begin with a slash.
 */
#define FUSE_USE_VERSION 31
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define NOTES "/.notes"
#define INODES (1u << 20)

static int root;
static FILE *journal;
/* Held while a change is made and written down, so that both have the same order. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* Numbers of files by inode.  An inode that is used again gets a new number. */
static struct {
    uint64_t inode;
    uint32_t number;
} numbers[INODES];
static uint32_t last_number;

/* An open file or directory.  It may have been renamed or removed since it had this path. */
struct open_file {
    int fd;
    uint32_t number;
    char path[];
};

static struct open_file *open_file(struct fuse_file_info *info)
{
    return (struct open_file *)(uintptr_t)info->fh;
}

/* PATH without its slash, for the calls that start at the backing directory. */
static const char *below(const char *path)
{
    return path[1] != 0 ? path + 1 : ".";
}

static uint64_t owner(uint32_t uid, uint32_t gid)
{
    return (uint64_t)uid << 32 | gid;
}

static void put(const void *data, size_t length)
{
    /* Half a journal would look like a power cut that came earlier. */
    if (length > 0 && fwrite(data, 1, length, journal) != length) {
        perror("recorder: cannot write the journal");
        _exit(3);
    }
}

struct change {
    char what;
    uint32_t number;
    uint64_t a, b;
    const char *path, *second;
    const void *data;
    size_t length;
};

static void record(struct change change)
{
    struct __attribute__((packed)) {
        char what;
        uint32_t number;
        uint64_t a, b;
        uint16_t path, second;
        uint32_t data;
    } header = {change.what,
                change.number,
                change.a,
                change.b,
                (uint16_t)(change.path != NULL ? strlen(change.path) : 0),
                (uint16_t)(change.second != NULL ? strlen(change.second) : 0),
                (uint32_t)change.length};

    put(&header, sizeof header);
    put(change.path, header.path);
    put(change.second, header.second);
    put(change.data, change.length);
}

#define RECORD(...) record((struct change){__VA_ARGS__})

/* The number of an open file.  CREATED: its inode is new, whatever had its number before. */
static uint32_t number_of(int fd, const char *path, int created)
{
    struct stat status;
    uint32_t at;

    if (fstat(fd, &status) != 0 || last_number >= INODES / 2) {
        fprintf(stderr, "recorder: too many files\n");
        _exit(3);
    }
    at = (uint32_t)((status.st_ino * 11400714819323198485ull) >> 44);
    while (numbers[at].inode != 0 && numbers[at].inode != status.st_ino)
        at = (at + 1) % INODES;
    if (created || numbers[at].number == 0) {
        numbers[at].inode = status.st_ino;
        numbers[at].number = ++last_number;
        if (!created)
            RECORD('k', numbers[at].number, .a = 0, .path = path);
    }
    return numbers[at].number;
}

static void begin(void)
{
    pthread_mutex_lock(&lock);
}

/* End a call that returned RESULT (0, or -1 and errno) as FUSE wants it. */
static int end(int result)
{
    int answer = result < 0 ? -errno : result;

    pthread_mutex_unlock(&lock);
    return answer;
}

static void *start(struct fuse_conn_info *connection, struct fuse_config *config)
{
    (void)connection;
    config->use_ino = 1;
    config->hard_remove = 1; /* PostgreSQL looks for names, and .fuse_hidden is none of its own. */
    config->nullpath_ok = 1; /* A file that was removed is still written to and synced. */
    config->attr_timeout = config->entry_timeout = config->negative_timeout = 0;
    return NULL;
}

static int get_attributes(const char *path, struct stat *status, struct fuse_file_info *info)
{
    int result = info != NULL ? fstat(open_file(info)->fd, status)
                              : fstatat(root, below(path), status, AT_SYMLINK_NOFOLLOW);

    return result != 0 ? -errno : 0;
}

static int read_link(const char *path, char *target, size_t size)
{
    ssize_t length = readlinkat(root, below(path), target, size - 1);

    if (length < 0)
        return -errno;
    target[length] = 0;
    return 0;
}

static struct open_file *remember(int fd, const char *path)
{
    struct open_file *file = malloc(sizeof *file + strlen(path) + 1);

    if (file != NULL) {
        *file = (struct open_file){.fd = fd};
        strcpy(file->path, path);
    }
    return file;
}

static int open_directory(const char *path, struct fuse_file_info *info)
{
    int fd = openat(root, below(path), O_RDONLY | O_DIRECTORY);
    struct open_file *file = fd < 0 ? NULL : remember(fd, path);

    if (file == NULL)
        return -errno;
    info->fh = (uintptr_t)file;
    return 0;
}

static int read_directory(const char *path, void *buffer, fuse_fill_dir_t fill, off_t offset,
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

static int make_directory(const char *path, mode_t mode)
{
    struct fuse_context *caller = fuse_get_context();
    int result;

    begin();
    result = mkdirat(root, below(path), mode);
    if (result == 0)
        result = fchownat(root, below(path), caller->uid, caller->gid, 0);
    if (result == 0)
        RECORD('m', .a = owner(caller->uid, caller->gid), .b = mode & 07777, .path = path);
    return end(result);
}

static int remove_directory(const char *path)
{
    int result;

    begin();
    result = unlinkat(root, below(path), AT_REMOVEDIR);
    if (result == 0)
        RECORD('d', .path = path);
    return end(result);
}

static int remove_name(const char *path)
{
    int result;

    begin();
    result = unlinkat(root, below(path), 0);
    if (result == 0)
        RECORD('u', .path = path);
    return end(result);
}

static int make_link(const char *target, const char *path)
{
    struct fuse_context *caller = fuse_get_context();
    int result;

    begin();
    result = symlinkat(target, root, below(path));
    if (result == 0)
        result = fchownat(root, below(path), caller->uid, caller->gid, AT_SYMLINK_NOFOLLOW);
    if (result == 0)
        RECORD('s', .a = owner(caller->uid, caller->gid), .path = path, .second = target);
    return end(result);
}

static int rename_file(const char *from, const char *to, unsigned flags)
{
    int result;

    if ((flags & RENAME_EXCHANGE) != 0)
        return -EINVAL; /* The journal has no word for it, and nobody asks. */
    begin();
    result = renameat2(root, below(from), root, below(to), flags);
    if (result == 0)
        RECORD('r', .path = from, .second = to);
    return end(result);
}

static int link_file(const char *from, const char *to)
{
    int result;

    begin();
    result = linkat(root, below(from), root, below(to), 0);
    if (result == 0)
        RECORD('l', .path = from, .second = to);
    return end(result);
}

static int change_mode(const char *path, mode_t mode, struct fuse_file_info *info)
{
    int result;

    begin();
    path = info != NULL ? open_file(info)->path : path;
    result = info != NULL ? fchmod(open_file(info)->fd, mode)
                          : fchmodat(root, below(path), mode, 0);
    if (result == 0)
        RECORD('p', .a = mode & 07777, .path = path);
    return end(result);
}

static int change_owner(const char *path, uid_t uid, gid_t gid, struct fuse_file_info *info)
{
    int result;

    begin();
    path = info != NULL ? open_file(info)->path : path;
    result = info != NULL ? fchown(open_file(info)->fd, uid, gid)
                          : fchownat(root, below(path), uid, gid, AT_SYMLINK_NOFOLLOW);
    if (result == 0)
        RECORD('o', .a = owner(uid, gid), .path = path);
    return end(result);
}

static int change_length(const char *path, off_t length, struct fuse_file_info *info)
{
    int fd, result;

    begin();
    fd = info != NULL ? open_file(info)->fd : openat(root, below(path), O_WRONLY);
    result = fd < 0 ? -1 : ftruncate(fd, length);
    if (result == 0)
        RECORD('t', number_of(fd, info != NULL ? open_file(info)->path : path, 0), .a = (uint64_t)length);
    if (info == NULL && fd >= 0) {
        int saved = errno;

        close(fd);
        errno = saved;
    }
    return end(result);
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
    file->number = number_of(fd, path, created);
    if (created)
        RECORD('c', file->number, .a = owner(caller->uid, caller->gid), .b = mode & 07777,
               .path = path);
    else if ((flags & O_TRUNC) != 0 && (flags & O_ACCMODE) != O_RDONLY)
        RECORD('t', file->number, .a = 0);
    return 0;
}

static int open_existing(const char *path, struct fuse_file_info *info)
{
    begin();
    return end(open_at(path, info, info->flags & ~(O_CREAT | O_EXCL | O_APPEND | O_DIRECT), 0, 0));
}

static int create(const char *path, mode_t mode, struct fuse_file_info *info)
{
    struct stat status;
    int created;

    begin();
    created = fstatat(root, below(path), &status, AT_SYMLINK_NOFOLLOW) != 0;
    return end(open_at(path, info, info->flags & ~(O_APPEND | O_DIRECT), mode, created));
}

static int read_file(const char *path, char *buffer, size_t size, off_t offset,
                     struct fuse_file_info *info)
{
    ssize_t result = pread(open_file(info)->fd, buffer, size, offset);

    (void)path;
    return result < 0 ? -errno : (int)result;
}

static int write_file(const char *path, const char *data, size_t size, off_t offset,
                      struct fuse_file_info *info)
{
    ssize_t result;

    (void)path;
    begin();
    result = pwrite(open_file(info)->fd, data, size, offset);
    if (result > 0 && open_file(info)->number == 0)
        RECORD('N', .data = data, .length = (size_t)result);
    else if (result > 0)
        RECORD((info->flags & (O_DSYNC | O_SYNC)) != 0 ? 'W' : 'w', open_file(info)->number,
               .a = (uint64_t)offset, .path = open_file(info)->path, .data = data, .length = (size_t)result);
    return end((int)result);
}

static int allocate(const char *path, int mode, off_t offset, off_t length,
                    struct fuse_file_info *info)
{
    int result;

    (void)path;
    if (mode != 0)
        return -EOPNOTSUPP; /* Holes are punched by nobody here. */
    begin();
    result = fallocate(open_file(info)->fd, 0, offset, length);
    if (result == 0)
        RECORD('a', open_file(info)->number, .a = (uint64_t)offset, .b = (uint64_t)length);
    return end(result);
}

static int sync_file(const char *path, int only_data, struct fuse_file_info *info)
{
    (void)path;
    begin();
    if (open_file(info)->number != 0)
        RECORD(only_data ? 'D' : 'f', open_file(info)->number, .path = open_file(info)->path);
    return end(0);
}

static int sync_directory(const char *path, int only_data, struct fuse_file_info *info)
{
    (void)path, (void)only_data;
    begin();
    RECORD('F', .path = open_file(info)->path);
    return end(0);
}

static int release(const char *path, struct fuse_file_info *info)
{
    (void)path;
    close(open_file(info)->fd);
    free(open_file(info));
    return 0;
}

static int file_system_size(const char *path, struct statvfs *status)
{
    (void)path;
    return fstatvfs(root, status) != 0 ? -errno : 0;
}

/* Times are passed on and not written down: nothing that is tested depends on them. */
static int set_times(const char *path, const struct timespec times[2], struct fuse_file_info *info)
{
    int result = info != NULL ? futimens(open_file(info)->fd, times)
                              : utimensat(root, below(path), times, AT_SYMLINK_NOFOLLOW);

    return result != 0 ? -errno : 0;
}

static void finish(void *unused)
{
    (void)unused;
    if (fclose(journal) != 0) {
        perror("recorder: cannot write the journal");
        _exit(3);
    }
}

static const struct fuse_operations operations = {
    .init = start,
    .getattr = get_attributes,
    .readlink = read_link,
    .opendir = open_directory,
    .readdir = read_directory,
    .releasedir = release,
    .mkdir = make_directory,
    .rmdir = remove_directory,
    .unlink = remove_name,
    .symlink = make_link,
    .rename = rename_file,
    .link = link_file,
    .chmod = change_mode,
    .chown = change_owner,
    .truncate = change_length,
    .open = open_existing,
    .create = create,
    .read = read_file,
    .write = write_file,
    .fallocate = allocate,
    .fsync = sync_file,
    .fsyncdir = sync_directory,
    .release = release,
    .statfs = file_system_size,
    .utimens = set_times,
    .destroy = finish,
};

int main(int count, char **words)
{
    char options[] = "default_permissions,allow_other";
    char *arguments[] = {words[0], "-f", "-o", options, count > 3 ? words[3] : NULL, NULL};

    if (count < 4) {
        fprintf(stderr, "usage: recorder BACKING JOURNAL MOUNTPOINT [allow_other]\n");
        return 2;
    }
    if (count == 4) /* Only root, or with user_allow_other in fuse.conf, may say more. */
        options[strlen("default_permissions")] = 0;
    umask(0);
    root = open(words[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    journal = fopen(words[2], "wbe");
    if (root < 0 || journal == NULL) {
        perror("recorder: cannot open the backing directory or the journal");
        return 1;
    }
    setvbuf(journal, NULL, _IOFBF, 1 << 20);
    put("TDEPOWR\1", 8);
    return fuse_main(5, arguments, &operations, NULL);
}
