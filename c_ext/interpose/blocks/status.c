/*
 * blocks/status.c - see blocks/status.h.
 */
#include "interpose/blocks/status.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "crypto/library.h"
#include "crypto/primitives.h"
#include "interpose/keys/slots.h"
#include "interpose/keys/withheld.h"
#include "interpose/libc/process.h"
#include "interpose/libc/report.h"
#include "interpose/libc/symbols.h"
#include "interpose/libc/transfer.h"

#define MEMORY_DIRECTORY "/dev/shm"
#define NAME_PREFIX "tde-"
#define STATUS_MAGIC 0x5444455354415431u /* "TDESTAT1" */

/* tde/machine/capabilities.py reads it. */
#ifdef __aarch64__
#define OPENSSL_CAPABILITIES "OPENSSL_armcap"
#else
#define OPENSSL_CAPABILITIES "OPENSSL_ia32cap"
#endif

static struct tde_status *status;
static char status_path[PATH_MAX];

/* Open and lock a file of MEMORY_DIRECTORY that no living server uses; -1 when one does. */
static int open_unused(const char *path)
{
    struct stat found;
    int fd = tde_libc()->open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);

    if (fd < 0)
        return -1;
    /* All processes of a server share the lock, so it outlives a killed postmaster. */
    if (fstat(fd, &found) == 0 && S_ISREG(found.st_mode) && found.st_uid == geteuid() &&
        flock(fd, LOCK_EX | LOCK_NB) == 0)
        return fd;
    tde_libc()->close(fd);
    return -1;
}

/* A server that was killed has left its file behind. */
static void remove_unused(void)
{
    DIR *directory = opendir(MEMORY_DIRECTORY);
    const struct dirent *entry;

    while (directory != NULL && (entry = readdir(directory)) != NULL) {
        char path[sizeof MEMORY_DIRECTORY + NAME_MAX + 1];
        int fd;

        if (strncmp(entry->d_name, NAME_PREFIX, sizeof NAME_PREFIX - 1) != 0)
            continue;
        snprintf(path, sizeof path, MEMORY_DIRECTORY "/%s", entry->d_name);
        fd = open_unused(path);
        if (fd < 0)
            continue;
        unlink(path);
        tde_libc()->close(fd);
    }
    if (directory != NULL)
        closedir(directory);
}

/*
 * The lock may come after another server has taken the new file for one that is unused.  The
 * directory is everybody's, so the name has a random part: somebody could make files for all
 * process ids in advance.
 */
static int create_file(void)
{
    struct stat namespace;
    struct stat made;
    uint64_t unknown;

    if (stat("/proc/self/ns/pid", &namespace) != 0)
        return -1;
    for (int attempt = 0; attempt < 10; attempt++) {
        int fd;

        if (tde_crypto_random((uint8_t *)&unknown, sizeof unknown) != 0)
            return -1;
        snprintf(status_path, sizeof status_path, MEMORY_DIRECTORY "/" NAME_PREFIX
                 "%ju-%d-%016" PRIx64, (uintmax_t)namespace.st_ino, (int)getpid(), unknown);
        fd = tde_libc()->open(status_path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW,
                                  0600);

        if (fd < 0)
            return -1;
        if (flock(fd, LOCK_SH | LOCK_NB) == 0 && fstat(fd, &made) == 0 && made.st_nlink == 1)
            return fd; /* Stays open, for the lock. */
        tde_libc()->close(fd);
    }
    errno = EAGAIN;
    return -1;
}

static void describe(struct tde_status *made)
{
    const char *capabilities = getenv(OPENSSL_CAPABILITIES);
    char path[PATH_MAX];
    Dl_info library;
    void *function;
    const struct tde_keys_scope *keys = tde_keys_scope();

    made->pid = (uint64_t)getpid();
    made->start_time = tde_libc_start_time();
    made->stripes = TDE_STATUS_STRIPES;
    made->words_per_stripe = TDE_STATUS_WORDS;
    made->bytes_before_stripes = offsetof(struct tde_status, stripe);
    if (tde_libc_descriptor_path(STDERR_FILENO, path) > 0)
        snprintf(made->standard_error, sizeof made->standard_error, "%s", path);
    memcpy(&function, &tde_crypto_library()->fetch, sizeof function);
    if (dladdr(function, &library) != 0 && library.dli_fname != NULL)
        snprintf(made->libcrypto, sizeof made->libcrypto, "%s", library.dli_fname);
    snprintf(made->libcrypto_version, sizeof made->libcrypto_version, "%s",
             tde_crypto_library()->version(OPENSSL_VERSION));
    memcpy(made->keystore, keys->scope.keystore, sizeof made->keystore);
    memcpy(made->exchange_key, keys->reader.exchange.open, sizeof made->exchange_key);
    memcpy(made->master_key_id, keys->scope.master_key_id, sizeof made->master_key_id);
    snprintf(made->keystore_path, sizeof made->keystore_path, "%s", keys->keystore);
    made->closed = tde_keys_withheld_list(made->locked, TDE_STATUS_LOCKED);
    if (tde_format_message_prove(&keys->reader, made->pid, made->start_time,
                                 made->exchange_code) != 0)
        memset(made->exchange_key, 0, sizeof made->exchange_key); /* As where there is none. */
    if (capabilities != NULL) /* An empty one is a zero for OpenSSL, and here it means none. */
        snprintf(made->openssl_capabilities, sizeof made->openssl_capabilities, "%s",
                 capabilities[0] == '\0' ? "0" : capabilities);
}

/* Space is taken at once: a store into a page that a full memory file system lacks is fatal. */
static struct tde_status *map_file(int fd)
{
    void *made;

    errno = tde_libc()->posix_fallocate(fd, 0, sizeof *status);
    if (errno != 0)
        return NULL;
    made = tde_libc()->mmap(NULL, sizeof *status, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    return made == MAP_FAILED ? NULL : made;
}

struct tde_status *tde_blocks_status_create(void)
{
    struct tde_status *made;
    int fd;

    remove_unused();
    fd = create_file();
    made = fd < 0 ? NULL : map_file(fd);
    if (made == NULL) {
        tde_libc_report("could not create %s (%s), so tde cannot see that this server encrypts; "
                        "HINT: mount a tmpfs at " MEMORY_DIRECTORY " that the server's user may "
                        "write to, with 64 kB free", status_path, strerror(errno));
        if (fd >= 0) {
            unlink(status_path);
            tde_libc()->close(fd);
        }
        return NULL;
    }
    describe(made);
    status = made;
    tde_blocks_status_directory();
    made->magic = STATUS_MAGIC;
    return made;
}

struct tde_status *tde_blocks_status_own(void)
{
    return status != NULL && status->pid == (uint64_t)getpid() ? status : NULL;
}

const char *tde_blocks_status_path(void)
{
    return tde_blocks_status_own() == NULL ? "" : status_path;
}

void tde_blocks_status_directory(void)
{
    struct stat directory;

    if (tde_blocks_status_own() == NULL || stat(".", &directory) != 0)
        return;
    status->directory_device = directory.st_dev;
    status->directory_inode = directory.st_ino;
}

void tde_blocks_status_closed(void)
{
    if (status != NULL)
        status->closed = 1;
}

/* Runs at every exit, of children as well, which leave the file alone. */
__attribute__((destructor)) static void remove_own(void)
{
    if (tde_blocks_status_own() != NULL)
        unlink(status_path);
}
