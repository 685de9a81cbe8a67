/*
 * policy/role.c - the table "who sees plaintext" of docs/format.md, section 9.
 */
#include "interpose/policy/role.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "interpose/control/control.h"
#include "interpose/libc/report.h"
#include "interpose/libc/symbols.h"
#include "interpose/policy/announced.h"
#include "interpose/policy/keystore.h"
#include "interpose/policy/rewind.h"
#include "interpose/policy/walsender.h"
#include "interpose/walfiles/compress.h"

static enum tde_role role = TDE_ROLE_NONE;
static bool takes_backup;

enum tde_role tde_policy_role(void)
{
    return role;
}

bool tde_policy_takes_backup(void)
{
    return takes_backup;
}

bool tde_policy_uses_keys(void)
{
    return role != TDE_ROLE_NONE && role != TDE_ROLE_STATE && role != TDE_ROLE_COMBINE;
}

static enum tde_role role_of(const char *program)
{
    static const struct {
        const char *program;
        enum tde_role role;
    } roles[] = {
        {"postgres", TDE_ROLE_SERVER},
        {"pg_ctl", TDE_ROLE_STATE},
        {"pg_controldata", TDE_ROLE_STATE},
        {"pg_createsubscriber", TDE_ROLE_STATE},
        {"repmgr", TDE_ROLE_STATE}, /* Reads pg_control itself, and decides by its state. */
        {"pg_combinebackup", TDE_ROLE_COMBINE},
        {"pg_basebackup", TDE_ROLE_WAL_RECEIVER},
        {"pg_receivewal", TDE_ROLE_WAL_RECEIVER},
        {"pg_rewind", TDE_ROLE_REWIND},
        {"pg_waldump", TDE_ROLE_TOOL},
        {"pg_resetwal", TDE_ROLE_TOOL},
        {"pg_checksums", TDE_ROLE_TOOL},
        {"pg_checksums_ext", TDE_ROLE_TOOL}, /* postgresql-NN-pg-checksums of Debian */
        {"pg_amcheck", TDE_ROLE_TOOL},
    };

    for (size_t i = 0; i < sizeof roles / sizeof roles[0]; i++)
        if (strcmp(program, roles[i].program) == 0)
            return roles[i].role;
    return TDE_ROLE_NONE;
}

void tde_policy_detect_role(void)
{
    char path[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
    const char *slash;

    if (length <= 0)
        return;
    path[length] = '\0';
    slash = strrchr(path, '/');
    /* A program of `tde pg install-bin` has the name of one of PostgreSQL's (program/main.c). */
    if (dlsym(RTLD_DEFAULT, "tde_stand_in") != NULL)
        return;
    role = role_of(slash == NULL ? path : slash + 1);
    takes_backup = slash != NULL && strcmp(slash + 1, "pg_basebackup") == 0;
    if (role == TDE_ROLE_REWIND)
        tde_policy_rewind_find();
}

/*
 * pg_basebackup and pg_receivewal receive WAL in plaintext.  It goes through the cipher on its
 * way into a segment file, a tar file, and the compressors gzip and lz4; of other compressors
 * nothing is known, so what they write would be plaintext.
 */
static bool holds_plain_wal(const char *path)
{
    const char *slash = strrchr(path, '/');
    const char *name = slash == NULL ? path : slash + 1;
    struct tde_identity id;

    if (strncmp(name, "pg_wal.tar.", 11) == 0)
        return true;
    return tde_format_parse_segment_name(name, &id) == 0 &&
           strncmp(name + 24, ".zst", 4) == 0;
}

static bool is_wal_tar(const char *path)
{
    const char *slash = strrchr(path, '/');
    const char *name = slash == NULL ? path : slash + 1;

    return strcmp(name, "pg_wal.tar") == 0 || strcmp(name, "pg_wal.tar.gz") == 0;
}

/*
 * From PostgreSQL 19 on pg_waldump reads tar files, also for pg_verifybackup.  The WAL in them is
 * ciphertext, which it would take for damage.
 */
static bool is_tar(const char *path)
{
    static const char *const ends[] = {".tar", ".tar.gz", ".tgz", ".tar.lz4", ".tar.zst"};
    size_t length = strlen(path);

    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++) {
        size_t end = strlen(ends[i]);

        if (length > end && strcmp(path + length - end, ends[i]) == 0)
            return true;
    }
    return false;
}

static enum tde_access tool_access(enum tde_file_class file_class, const char *path)
{
    if (file_class == TDE_CLASS_PLAIN && is_tar(path)) {
        tde_libc_report("refused to read %s: the WAL in a tar file is ciphertext, which only the "
                        "files of a directory are decrypted from; HINT: unpack it with tar, and "
                        "name that directory; pg_verifybackup has --no-parse-wal", path);
        return TDE_ACCESS_REFUSED;
    }
    /* No other process has the key of the server's ephemeral files. */
    return file_class == TDE_CLASS_PLAIN || file_class == TDE_CLASS_EPHEMERAL
               ? TDE_ACCESS_RAW
               : TDE_ACCESS_ENCRYPTED;
}

static enum tde_access wal_receiver_access(enum tde_file_class file_class, const char *path,
                                           int flags)
{
    struct tde_identity id;

    if (file_class == TDE_CLASS_WAL)
        return TDE_ACCESS_ENCRYPTED;
    if ((flags & O_ACCMODE) == O_RDONLY)
        return TDE_ACCESS_RAW;
    if (tde_walfiles_compress_parse(path, &id) != TDE_COMPRESSOR_NONE)
        return TDE_ACCESS_COMPRESSED;
    if (is_wal_tar(path))
        return TDE_ACCESS_TAR;
    if (!holds_plain_wal(path))
        return TDE_ACCESS_RAW;
    tde_libc_report("refused to write %s: WAL in a compressed file would not be encrypted; "
                    "HINT: use the plain format without compression, or --wal-method=fetch",
                    path);
    return TDE_ACCESS_REFUSED;
}

static enum tde_access server_wal_access(const char *path)
{
    const char *foreign;

    if (tde_policy_walsender_is_unsafe()) {
        tde_libc_report("refused to stream %s to a client that would store it in plaintext; HINT: "
                        "use \"tde pg exec pg_basebackup\" or \"tde pg exec pg_receivewal\", or "
                        "say that the client encrypts it with options='" TDE_WALSENDER_OPTION
                        " -c " TDE_ANNOUNCED_KEYS_SETTING "=" TDE_ANNOUNCED_WAL_ONLY "' "
                        "in its connection string", path);
        return TDE_ACCESS_REFUSED;
    }
    foreign = tde_policy_walsender_foreign_keystore();
    if (foreign == NULL) {
        if (tde_policy_walsender_streams_wal())
            tde_policy_announced_note();
        return TDE_ACCESS_ENCRYPTED;
    }
    tde_libc_report("refused to stream %s to a client that would encrypt it with keystore %.64s, "
                    "because this server uses keystore %s; HINT: give the client a copy of the "
                    "server's keystore, with --keystore or TDE_KEYSTORE",
                    path, foreign, tde_policy_keystore_uuid());
    return TDE_ACCESS_FOREIGN;
}

static enum tde_access server_access(enum tde_file_class file_class, const char *path,
                                     int flags)
{
    if (file_class == TDE_CLASS_PLAIN)
        return TDE_ACCESS_RAW;
    /* Ephemeral files are in no backup. */
    if (file_class != TDE_CLASS_EPHEMERAL && tde_policy_walsender_sends_backup(flags))
        return TDE_ACCESS_RAW;
    return file_class == TDE_CLASS_WAL ? server_wal_access(path) : TDE_ACCESS_ENCRYPTED;
}

/*
 * Base backups send and store the file as it is.  Everything else that this library is loaded
 * into either works on the cluster with its keys, or decides by its state what to do next.
 */
static bool sees_state(const char *path, int flags)
{
    return role != TDE_ROLE_NONE && role != TDE_ROLE_COMBINE && role != TDE_ROLE_WAL_RECEIVER &&
           (flags & O_APPEND) == 0 && tde_control_is_path(path) &&
           !(role == TDE_ROLE_SERVER && tde_policy_walsender_sends_backup(flags));
}

enum tde_access tde_policy_access(enum tde_file_class file_class, const char *path, int flags)
{
    bool encrypted = file_class != TDE_CLASS_PLAIN;

    if (!encrypted && sees_state(path, flags))
        return TDE_ACCESS_CONTROL;
    switch (role) {
    case TDE_ROLE_SERVER:
        return server_access(file_class, path, flags);
    case TDE_ROLE_WAL_RECEIVER:
        return wal_receiver_access(file_class, path, flags);
    case TDE_ROLE_REWIND:
        encrypted = file_class == TDE_CLASS_WAL && (flags & O_ACCMODE) == O_RDONLY &&
                    tde_policy_rewind_is_in_target(path);
        break;
    case TDE_ROLE_TOOL:
        return tool_access(file_class, path);
    case TDE_ROLE_NONE:
    case TDE_ROLE_STATE:
    case TDE_ROLE_COMBINE:
    default:
        encrypted = false;
        break;
    }
    return encrypted ? TDE_ACCESS_ENCRYPTED : TDE_ACCESS_RAW;
}
