/*
 * policy/harm.c - see policy/harm.h.
 *
 * Directories are compared by device and inode, so that no link, mount or spelling hides them.
 * The keystore itself is asked only at the start, because a server goes on without it.
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

/* The keystore's directory and keys/ in it.  Below these there are no others. */
static struct {
    dev_t device;
    ino_t inode;
} directories[2];
static size_t count;

void tde_policy_harm_note(void)
{
    static const char *const names[] = {"", "/keys"};
    struct stat status;

    count = 0;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char path[TDE_HANDOVER_PATH_MAX + 8];

        snprintf(path, sizeof path, "%s%s", tde_keys_scope()->keystore, names[i]);
        if (stat(path, &status) != 0)
            continue;
        directories[count].device = status.st_dev;
        directories[count++].inode = status.st_ino;
    }
}

static bool is_ours(const struct stat *status)
{
    for (size_t i = 0; i < count; i++)
        if (directories[i].device == status->st_dev && directories[i].inode == status->st_ino)
            return true;
    return false;
}

/* A keystore that was mounted anew since the start has other numbers, and the same name. */
static bool begins_with_keystore(const char *path)
{
    const char *keystore = tde_keys_scope()->keystore;
    size_t length = strlen(keystore);

    return strncmp(path, keystore, length) == 0 && (path[length] == '/' || path[length] == '\0');
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

/* Whether PATH is, or lies in, one of the directories; *PARENT gets the length of what it is in. */
static bool lies_within(int dirfd, const char *path, size_t *parent)
{
    char directory[PATH_MAX];
    struct stat status;

    if (begins_with_keystore(path))
        return true;
    *parent = parent_length(path);
    memcpy(directory, path, *parent);
    strcpy(directory + *parent, *parent == 0 ? "." : "");
    if (fstatat(dirfd, directory, &status, 0) == 0 && is_ours(&status))
        return true;
    /* The last component may be "..", or the directory itself. */
    return fstatat(dirfd, path, &status, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(status.st_mode) &&
           is_ours(&status);
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
    return count > 0 && tde_policy_role() == TDE_ROLE_SERVER;
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
    for (size_t i = 0; i < count; i++)
        if (directories[i].device == status.st_dev)
            return refuse(dirfd, path, true);
    return begins_with_keystore(path) && refuse(dirfd, path, true);
}
