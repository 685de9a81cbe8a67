/*
 * program/keys.c - auto-open.key (docs/format.md, section 6) to the hand-over (section 8).
 */
#include "program/keys.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "crypto/cipher.h"
#include "crypto/primitives.h"
#include "format/handover.h"
#include "format/keymap.h"
#include "format/keyrecord.h"
#include "launch/preload.h"
#include "program/private.h"
#include "program/release.h"

#define AUTO_OPEN_FILE "auto-open.key"

enum {
    AUTO_KEYSTORE = 8,
    AUTO_MASTER_KEY_ID = 24,
    AUTO_CONTEXT_SIZE = 40, /* what the tag binds, before the key */
    AUTO_KEY = 40,
    AUTO_NONCE = 72,
    AUTO_ZEROS = 84,
    AUTO_WRAPPED = 88,
    AUTO_TAG = 120,
    AUTO_SIZE = TDE_AUTO_OPEN_SIZE,
};

static const uint8_t auto_magic[8] = {'T', 'D', 'E', 'A', 'U', 'T', 'O', 1};

/* The hint of most messages here: the command that makes the file again. */
static const char *enable(const struct tde_program_settings *settings)
{
    static char hint[PATH_MAX + 80];

    snprintf(hint, sizeof hint, "Enable it: tde keystore auto-open enable --keystore %s",
             settings->keystore);
    return hint;
}

/* Read a file of SIZE bytes, to which nobody else may have access.  0, or -1 after a message. */
static int read_private(const struct tde_program_settings *settings, const char *path, uint8_t *to,
                        size_t size)
{
    const char *culprit;
    const char *problem;
    ssize_t length = tde_program_read_private(path, to, size, &culprit, &problem);

    if (length == (ssize_t)size)
        return 0;
    if (problem != NULL)
        tde_program_error(settings->program,
                          "Give it to the server's user, and chmod -R go= the keystore", "%s %s",
                          culprit, problem);
    else if (length >= 0)
        tde_program_error(settings->program, enable(settings),
                          "%s is damaged: it does not have %zu bytes", path, size);
    else
        tde_program_error(settings->program, errno == ENOENT ? enable(settings) : NULL,
                          "the keystore %s does not open by itself: %s: %s", settings->keystore,
                          AUTO_OPEN_FILE, strerror(errno));
    return -1;
}

/* auto-open.key, or what `tde` gives in its place where only a provider opens the keystore. */
static int load(const struct tde_program_settings *settings, uint8_t record[AUTO_SIZE],
                bool *closed)
{
    char path[PATH_MAX];

    if (tde_program_path(path, settings->keystore, AUTO_OPEN_FILE) != 0) {
        tde_program_error(settings->program, NULL, "the keystore's path is too long");
        return -1;
    }
    *closed = false;
    if (access(path, F_OK) != 0 && errno == ENOENT && tde_program_has_envelopes(settings)) {
        if (tde_program_release(settings, record, closed) != 0)
            return -1;
    } else if (read_private(settings, path, record, AUTO_SIZE) != 0)
        return -1;
    if (memcmp(record, auto_magic, sizeof auto_magic) == 0 &&
        tde_crypto_is_zero(record + AUTO_ZEROS, 4))
        return 0;
    tde_program_error(settings->program, enable(settings),
                      "%s is damaged or of another version of tde", path);
    return -1;
}

/* The 32 hexadecimal digits of the marker's keystore_uuid, which tde writes on one line. */
static const char *find_uuid(const char *marker)
{
    static const char name[] = "\"keystore_uuid\": \"";
    const char *at = strstr(marker, name);

    return at == NULL ? NULL : at + sizeof name - 1;
}

/*
 * A cluster that was last started by a release before the key map gets one by "tde pg start",
 * which can look at pages; where the map should be and is not, nothing may be guessed.
 */
static enum tde_cluster_state require_keymap(const struct tde_program_settings *settings,
                                             const char *marker, const char *directory)
{
    char path[PATH_MAX];

    if (tde_format_keymap_is_older(marker)) {
        tde_program_error(settings->program, "Run once: tde pg start -D, with this directory.",
                          "the cluster in %s was last started by an older release of tde, and has "
                          "no key map yet",
                          directory);
        return TDE_CLUSTER_UNUSABLE;
    }
    if (tde_program_path(path, directory, TDE_KEYMAP_FILE) == 0 && access(path, F_OK) == 0)
        return TDE_CLUSTER_OURS;
    tde_program_error(settings->program,
                      "Restore " TDE_KEYMAP_FILE " from " TDE_KEYMAP_SOURCE ".",
                      "the key map %s/" TDE_KEYMAP_FILE " cannot be used: %s", directory,
                      strerror(errno));
    return TDE_CLUSTER_UNUSABLE;
}

static enum tde_cluster_state compare_marker(const struct tde_program_settings *settings,
                                             const char *marker, const char *directory)
{
    uint8_t record[AUTO_SIZE];
    char uuid[2 * TDE_UUID_SIZE + 1];
    const char *found = find_uuid(marker);
    bool closed;

    if (load(settings, record, &closed) != 0)
        return TDE_CLUSTER_UNUSABLE;
    for (size_t i = 0; i < TDE_UUID_SIZE; i++)
        snprintf(uuid + 2 * i, 3, "%02x", record[AUTO_KEYSTORE + i]);
    tde_crypto_wipe(record, sizeof record);
    if (found != NULL && strncmp(found, uuid, sizeof uuid - 1) == 0)
        return require_keymap(settings, marker, directory);
    tde_program_error(settings->program, "Use tde pg with the cluster's keystore.",
                      "the cluster in %s belongs to another keystore than %s (%s)", directory,
                      settings->keystore, uuid);
    return TDE_CLUSTER_UNUSABLE;
}

static ssize_t read_regular(int fd, void *to, size_t size)
{
    struct stat status;

    if (fstat(fd, &status) != 0)
        return -1;
    if (S_ISREG(status.st_mode))
        return read(fd, to, size);
    errno = EINVAL;
    return -1;
}

enum tde_cluster_state tde_program_cluster_state(const struct tde_program_settings *settings,
                                                 const char *directory)
{
    char path[PATH_MAX];
    char marker[TDE_MARKER_LIMIT + 1];
    ssize_t length;
    int fd;

    if (directory == NULL || tde_program_path(path, directory, TDE_MARKER_FILE) != 0)
        return TDE_CLUSTER_PLAIN;
    /* As tde itself: no link is followed, and no pipe is waited for. */
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0 && (errno == ENOENT || errno == ENOTDIR))
        return TDE_CLUSTER_PLAIN;
    length = fd < 0 ? -1 : read_regular(fd, marker, TDE_MARKER_LIMIT);
    if (length < 0) {
        tde_program_error(settings->program, NULL, "could not read %s: %s", path, strerror(errno));
        if (fd >= 0)
            close(fd);
        return TDE_CLUSTER_UNUSABLE;
    }
    close(fd);
    marker[length] = '\0';
    return compare_marker(settings, marker, directory);
}

/* The master key of a record and what it belongs to; 0, or -1 when it is not authentic. */
static int unwrap(const uint8_t record[AUTO_SIZE], struct tde_key_scope *scope)
{
    memcpy(scope->keystore, record + AUTO_KEYSTORE, TDE_UUID_SIZE);
    memcpy(scope->master_key_id, record + AUTO_MASTER_KEY_ID, TDE_UUID_SIZE);
    return tde_crypto_gcm_decrypt(record + AUTO_KEY, record + AUTO_NONCE, record, AUTO_CONTEXT_SIZE,
                                  record + AUTO_WRAPPED, TDE_GCM_KEY_SIZE, record + AUTO_TAG,
                                  scope->master_key);
}

static void report_damaged(const struct tde_program_settings *settings)
{
    if (tde_crypto_is_complete())
        tde_program_error(settings->program, enable(settings), "%s/" AUTO_OPEN_FILE " is damaged",
                          settings->keystore);
    else
        tde_program_error(settings->program, NULL, TDE_CRYPTO_INCOMPLETE);
}

/* A sealed memory file that the next program inherits, or -1. */
static int sealed_file(const uint8_t *content, size_t length)
{
    int made = memfd_create("tde-keys", MFD_ALLOW_SEALING);
    int fd = made;

    /* pg_ctl gives 0 to 2 to other files, and a caller may have closed its own. */
    if (made >= 0 && made <= STDERR_FILENO) {
        fd = fcntl(made, F_DUPFD, STDERR_FILENO + 1);
        close(made);
    }
    if (fd < 0)
        return -1;
    if (write(fd, content, length) == (ssize_t)length && lseek(fd, 0, SEEK_SET) == 0 &&
        fcntl(fd, F_ADD_SEALS, TDE_HANDOVER_SEALS) == 0)
        return fd;
    close(fd);
    return -1;
}

int tde_program_preload(const struct tde_program_settings *settings)
{
    /* pg_upgrade starts other programs of this kind, which have the interposer already. */
    char *others = tde_launch_other_preloads(getenv("LD_PRELOAD"));
    char preload[2 * PATH_MAX];
    int length;

    if (others == NULL)
        return -1;
    length = snprintf(preload, sizeof preload, "%s/" TDE_INTERPOSER "%s%s", settings->directory,
                      *others == '\0' ? "" : ":", others);
    free(others);
    if (length < 0 || (size_t)length >= sizeof preload)
        return -1;
    return setenv("LD_PRELOAD", preload, 1);
}

static int announce(const struct tde_program_settings *settings, int fd)
{
    char number[16];

    snprintf(number, sizeof number, "%d", fd);
    return tde_program_preload(settings) != 0 ? -1 : setenv(TDE_HANDOVER_VARIABLE, number, 1);
}

void tde_program_forget_hand_over(void)
{
    const char *number = getenv(TDE_HANDOVER_VARIABLE);
    long fd = number == NULL ? -1 : strtol(number, NULL, 10);

    if (fd > STDERR_FILENO && fd <= INT_MAX)
        close((int)fd);
    unsetenv(TDE_HANDOVER_VARIABLE);
}

int tde_program_forget_all(void)
{
    char *others = tde_launch_other_preloads(getenv("LD_PRELOAD"));
    int result = others == NULL ? -1 : 0;

    tde_program_forget_hand_over();
    if (others != NULL && *others != '\0')
        result = setenv("LD_PRELOAD", others, 1);
    else if (others != NULL)
        result = unsetenv("LD_PRELOAD");
    free(others);
    return result;
}

/* The key of the map, from the record of the WAL's key.  0, or -1 after a message. */
static int load_map_key(const struct tde_program_settings *settings,
                        const struct tde_key_scope *scope, uint8_t map_key[TDE_KEYMAP_KEY_SIZE])
{
    uint8_t wrapped[TDE_KEYRECORD_SIZE];
    char path[PATH_MAX];
    const char *problem;
    struct tde_key key;
    int result = -1;

    if (tde_program_path(path, settings->keystore, "keys/wal.key") != 0 ||
        read_private(settings, path, wrapped, sizeof wrapped) != 0)
        return -1;
    problem = tde_format_keyrecord_unwrap(wrapped, sizeof wrapped, scope, TDE_OWNER_WAL, 0, &key);
    if (problem == NULL)
        result = tde_format_keymap_key(&key, map_key);
    if (result != 0)
        tde_program_error(settings->program, NULL, "could not use key file %s: %s", path,
                          problem == NULL ? "its key cannot be derived from" : problem);
    tde_crypto_wipe(&key, sizeof key);
    return result;
}

static int write_map(const struct tde_program_settings *settings, const char *directory,
                     const uint8_t map[TDE_KEYMAP_UNIT])
{
    char version[PATH_MAX];
    char path[PATH_MAX];
    struct stat status;
    int fd;

    if (tde_program_path(path, directory, TDE_KEYMAP_FILE) != 0 ||
        tde_program_path(version, directory, "PG_VERSION") != 0)
        return -1;
    /* A cluster with group access has files that the group may read. */
    if (stat(version, &status) != 0)
        return -1;
    fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, status.st_mode & 0777);
    if (fd >= 0 && write(fd, map, TDE_KEYMAP_UNIT) == TDE_KEYMAP_UNIT && fsync(fd) == 0) {
        close(fd);
        return 0;
    }
    tde_program_error(settings->program, NULL, "could not write %s: %s", path, strerror(errno));
    if (fd >= 0)
        close(fd);
    return -1;
}

int tde_program_map_key(const struct tde_program_settings *settings,
                        uint8_t keystore[TDE_UUID_SIZE], uint8_t map_key[TDE_KEYMAP_KEY_SIZE])
{
    uint8_t record[AUTO_SIZE];
    struct tde_key_scope scope = {0};
    int result = -1;
    bool closed;

    if (load(settings, record, &closed) == 0) {
        result = unwrap(record, &scope);
        if (result != 0)
            report_damaged(settings);
        else
            result = load_map_key(settings, &scope, map_key);
    }
    memcpy(keystore, scope.keystore, TDE_UUID_SIZE);
    tde_crypto_wipe(record, sizeof record);
    tde_crypto_wipe(&scope, sizeof scope);
    return result;
}

int tde_program_write_keymap(const struct tde_program_settings *settings, const char *directory)
{
    uint8_t map_key[TDE_KEYMAP_KEY_SIZE];
    uint8_t keystore[TDE_UUID_SIZE];
    uint8_t map[TDE_KEYMAP_UNIT];
    int result = -1;

    if (tde_program_map_key(settings, keystore, map_key) == 0 &&
        tde_format_keymap_begin(keystore, map_key, map) == 0)
        result = write_map(settings, directory, map);
    tde_crypto_wipe(map_key, sizeof map_key);
    return result;
}

int tde_program_hand_over(const struct tde_program_settings *settings)
{
    /* Static, so that locking it keeps all of it out of swap. */
    static struct {
        uint8_t record[AUTO_SIZE];
        struct tde_key_scope scope;
        uint8_t content[TDE_HANDOVER_MAX];
    } secret;
    size_t length;
    bool closed;
    int fd;
    int result = -1;

    /*
     * A program of this kind that started us has left its own hand-over open, which servers and
     * what they start must not inherit.
     */
    tde_program_forget_hand_over();
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0); /* Until the exec, as in c_ext/interpose/libc/privacy.c. */
    mlock(&secret, sizeof secret); /* Without it keys still work, only less protected. */
    if (load(settings, secret.record, &closed) != 0)
        return -1;
    tde_program_forget_release();
    if (unwrap(secret.record, &secret.scope) != 0)
        report_damaged(settings);
    else {
        length = tde_format_handover_write(secret.content, &secret.scope, closed,
                                            settings->keystore);
        fd = sealed_file(secret.content, length);
        if (fd >= 0 && announce(settings, fd) == 0)
            result = 0;
        else
            tde_program_error(settings->program,
                              errno == EPERM ? "Allow the system call memfd_create in the seccomp "
                                               "profile of the container or service."
                                             : NULL,
                              "could not hand over the keys: %s", strerror(errno));
    }
    tde_crypto_wipe(&secret, sizeof secret);
    return result;
}
