/*
 * policy/harm.c - see policy/harm.h.
 *
 * Directories are compared by device and inode, so that no link, mount or spelling hides them.
 * The keystore itself is asked only at the start, because a server goes on without it.  Of what is
 * in it no inode is kept: a rotation of the master key exchanges keys/, and the file system then
 * gives the number of the old one to any other directory.
 */
#include "interpose/policy/harm.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "interpose/keys/slots.h"
#include "interpose/libc/report.h"
#include "interpose/policy/role.h"

#define MOST_LINKS 40 /* as the kernel has it */

/* The keystore's directory. */
static struct {
    bool is_known;
    dev_t device;
    ino_t inode;
} keystore;

void tde_policy_harm_note(void)
{
    struct stat status;

    keystore.is_known = stat(tde_keys_scope()->keystore, &status) == 0;
    if (keystore.is_known) {
        keystore.device = status.st_dev;
        keystore.inode = status.st_ino;
    }
}

static bool is_keystore(int dirfd, const char *path, int flags)
{
    struct stat status;

    return fstatat(dirfd, path, &status, flags) == 0 && status.st_dev == keystore.device &&
           status.st_ino == keystore.inode;
}

/* A keystore that was mounted anew since the start has other numbers, and the same name. */
static bool begins_with_keystore(const char *path)
{
    const char *name = tde_keys_scope()->keystore;
    size_t length = strlen(name);

    return strncmp(path, name, length) == 0 && (path[length] == '/' || path[length] == '\0');
}

/* What PATH lies in, with the slash; the length, 0 for a name in the directory of the call. */
static size_t parent_length(const char *path)
{
    size_t length = strlen(path);

    while (length > 1 && path[length - 1] == '/')
        length--;
    while (length > 0 && path[length - 1] != '/')
        length--;
    return length;
}

/*
 * Whether PATH is the keystore, lies in it, or in a directory in it, below which there are no
 * others; *PARENT gets the length of what it is in.
 */
static bool lies_within(int dirfd, const char *path, size_t *parent)
{
    char directory[PATH_MAX + sizeof "./.."];

    if (begins_with_keystore(path))
        return true;
    *parent = parent_length(path);
    memcpy(directory, path, *parent);
    strcpy(directory + *parent, *parent == 0 ? "./" : "");
    if (is_keystore(dirfd, directory, 0))
        return true;
    strcat(directory, "..");
    if (is_keystore(dirfd, directory, 0))
        return true;
    /* The last component may be "..", or the keystore itself. */
    return is_keystore(dirfd, path, AT_SYMLINK_NOFOLLOW);
}

static bool leads_within(int dirfd, const char *path, bool follows)
{
    char at[PATH_MAX];

    if (strlen(path) >= sizeof at)
        return false; /* The kernel refuses it as too long. */
    strcpy(at, path);
    for (int links = 0; links <= MOST_LINKS; links++) {
        char target[PATH_MAX];
        size_t parent = 0;
        ssize_t length;

        if (lies_within(dirfd, at, &parent))
            return true;
        length = follows ? readlinkat(dirfd, at, target, sizeof target) : -1;
        if (length <= 0)
            return false;
        if (target[0] == '/')
            parent = 0;
        if (parent + (size_t)length >= sizeof at)
            return false;
        memcpy(at + parent, target, (size_t)length);
        at[parent + (size_t)length] = '\0';
    }
    return false;
}

/* Programs other than the server are told by a person where to write. */
static bool is_guarded(void)
{
    return keystore.is_known && tde_policy_role() == TDE_ROLE_SERVER;
}

static bool refuse(int dirfd, const char *path, bool follows)
{
    int saved = errno;

    if (!leads_within(dirfd, path, follows)) {
        errno = saved;
        return false;
    }
    tde_libc_report("refused to write or remove %s: it lies in the keystore %s, where the server "
                    "writes nothing; HINT: look for the setting, the statement or the symbolic "
                    "link that leads there",
                    path, tde_keys_scope()->keystore);
    errno = EPERM;
    return true;
}

bool tde_policy_harm_refuses(int dirfd, const char *path, bool follows)
{
    return is_guarded() && path != NULL && refuse(dirfd, path, follows);
}

bool tde_policy_harm_refuses_open(int fd, int dirfd, const char *path)
{
    struct stat status;

    if (!is_guarded() || fstat(fd, &status) != 0)
        return false;
    /* A keystore on a file system of its own, as it should be, costs no more than this. */
    if (status.st_dev == keystore.device || begins_with_keystore(path))
        return refuse(dirfd, path, true);
    return false;
}
