/*
 * main.c - a file system that passes everything on to a directory and writes down what changed.
 *
 *   recorder BACKING JOURNAL MOUNTPOINT [allow_other]
 *
 * The journal says in which order the programs on it wrote, synced and renamed, so that the
 * states that a power cut may leave can be built afterwards (disk.py).  Its format: journal.h.
 */
#include "recorder.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

int root;

static void *start(struct fuse_conn_info *connection, struct fuse_config *config)
{
    (void)connection;
    config->use_ino = 1;
    config->hard_remove = 1; /* PostgreSQL looks for names, and .fuse_hidden is none of its own. */
    config->nullpath_ok = 1; /* A file that was removed is still written to and synced. */
    config->attr_timeout = config->entry_timeout = config->negative_timeout = 0;
    return NULL;
}

static int file_system_size(const char *path, struct statvfs *status)
{
    (void)path;
    return fstatvfs(root, status) != 0 ? -errno : 0;
}

static void finish(void *unused)
{
    (void)unused;
    journal_close();
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
    if (root < 0 || journal_open(words[2]) != 0) {
        perror("recorder: cannot open the backing directory or the journal");
        return 1;
    }
    return fuse_main(5, arguments, &operations, NULL);
}
