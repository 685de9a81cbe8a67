/*
 * policy/unknown.c - see policy/unknown.h.
 *
 * The list of plain files is closed: what an extension keeps beside the cluster's own files, what
 * a session exports into the data directory, or a kind of file that PostgreSQL may get one day,
 * would be plaintext among ciphertext that nobody looks for.
 */
#include "interpose/policy/unknown.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stddef.h>
#include <string.h>

#include "format/plain.h"
#include "interpose/libc/report.h"
#include "interpose/policy/place.h"
#include "interpose/policy/process.h"

bool tde_policy_unknown_makes(int flags)
{
    return (flags & (O_CREAT | O_TRUNC | O_APPEND)) != 0 || (flags & O_TMPFILE) == O_TMPFILE;
}

static bool begins_with(const char *path, const char *directory)
{
    size_t length = directory == NULL ? 0 : strlen(directory);

    return length > 0 && strncmp(path, directory, length) == 0 && path[length] == '/';
}

/* Two files have whatever name the configuration says: the log, and a second file with the pid. */
static bool is_named_in_settings(const char *path)
{
    const char *pid_file;

    if (tde_policy_process_is("logger"))
        return true; /* It writes nothing else. */
    if (!tde_policy_process_is_postmaster())
        return false;
    if (begins_with(path, tde_policy_process_setting("log_directory")))
        return true; /* The first file of the log is opened before there is a logger. */
    pid_file = tde_policy_process_setting("external_pid_file");
    return pid_file != NULL && strcmp(path, pid_file) == 0;
}

static void report(const char *path, const char *name)
{
    /*
     * dynamic_shared_memory_type = mmap keeps what parallel workers exchange, rows included,
     * in files of this directory, and no page of a mapping passes through here.
     */
    if (strncmp(name, "pg_dynshmem/", 12) == 0)
        tde_libc_report("refused to create %s: rows in it would not be encrypted; "
                        "HINT: set dynamic_shared_memory_type = posix", path);
    else
        tde_libc_report("refused to create %s: PostgreSQL keeps no file of this name there, and it "
                        "would not be encrypted; HINT: write it to a directory outside of the data "
                        "directory, the WAL directory and all tablespaces", path);
}

static int require_known(int dirfd, const char *path)
{
    char name[PATH_MAX];
    int place;

    if (tde_policy_place_is_below(dirfd, path) && tde_format_plain_is_written_by_server(path))
        return TDE_CLASS_PLAIN;
    if (is_named_in_settings(path))
        return TDE_CLASS_PLAIN;
    place = tde_policy_place_find(dirfd, path, name);
    if (place < 0)
        return -1;
    if (place == 0 || tde_format_plain_is_written_by_server(name))
        return TDE_CLASS_PLAIN;
    report(path, name);
    errno = EOPNOTSUPP;
    return -1;
}

int tde_policy_unknown_settle(enum tde_file_class file_class, int dirfd, const char *path,
                              bool makes)
{
    char name[PATH_MAX];
    int place;

    if (file_class == TDE_CLASS_PLAIN)
        return makes ? require_known(dirfd, path) : TDE_CLASS_PLAIN;
    if (tde_policy_place_is_below(dirfd, path))
        return (int)file_class;
    place = tde_policy_place_find(dirfd, path, name);
    if (place < 0)
        return -1;
    /*
     * Those who run SQL export what they are told to, and what has the name of a segment outside of
     * the cluster is no WAL.  What the archiver writes there is, and must be ciphertext.
     */
    if (place == 1 || (file_class == TDE_CLASS_WAL && !tde_policy_process_runs_sql()))
        return (int)file_class;
    return TDE_CLASS_PLAIN;
}
