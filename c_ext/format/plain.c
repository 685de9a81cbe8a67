/*
 * format/plain.c - see format/plain.h.
 *
 * The names are those of PostgreSQL 15 to 19 with its contrib, of which only pg_prewarm,
 * pg_stat_statements, pg_stash_advice and basic_archive write files under names of their own, and
 * of extensions that keep counters beside the server's own.  A pattern is compared with a whole
 * path:
 *
 *   *  one or more characters of one component      #  one or more decimal digits
 *   %  one or more upper-case hexadecimal digits    @  eight of them
 *   >  everything that follows, at least one character
 *   !  at the start: any directories, or none
 *   ~  the same, but not base, global or pg_*, where names are the server's alone
 *
 * A file that is replaced at once exists under its name with .tmp, .temp or a process's number
 * for a moment, so every name may end in these.
 */
#include "format/plain.h"

#include <string.h>

#define NAMES(...) (const char *const[]){__VA_ARGS__, NULL}
#define NO_NAMES (const char *const[]){NULL}

static const struct tde_plain_rule rules[] = {
    {"`global/pg_control`",
     "positions and settings; `pg_controldata`, `pg_rewind` and cluster managers read it", false,
     NAMES("global/pg_control"), NAMES("global/pg_control.old")},
    {"`PG_VERSION`, `pg_filenode.map`, `pg_internal.init`",
     "catalog numbers and column layouts of system catalogs", false,
     NAMES("PG_VERSION", "base/#/PG_VERSION", "pg_tblspc/#/PG_*/#/PG_VERSION",
           "global/pg_filenode.map", "base/#/pg_filenode.map",
           "pg_tblspc/#/PG_*/#/pg_filenode.map", "global/pg_internal.init",
           "base/#/pg_internal.init", "pg_tblspc/#/PG_*/#/pg_internal.init"),
     NO_NAMES},
    {"`pg_xact`, `pg_multixact`, `pg_subtrans`, `pg_commit_ts`, `pg_serial`",
     "transaction states and times", false,
     NAMES("pg_xact/%", "pg_multixact/*/%", "pg_subtrans/%", "pg_commit_ts/%", "pg_serial/%"),
     NO_NAMES},
    {"`pg_twophase`, `pg_logical`, `pg_replslot/*/state`, `pg_snapshots`",
     "transaction, slot and snapshot states, no rows; `pg_twophase` names the global identifiers "
     "that clients chose",
     false,
     NAMES("pg_twophase/%", "pg_logical/replorigin_checkpoint", "pg_logical/snapshots/*.snap",
           "pg_logical/mappings/map-*", "pg_replslot/*/state", "pg_snapshots/%-%-#"),
     NO_NAMES},
    {"`pg_wal/*.history`, `*.backup`, `archive_status`, `summaries`",
     "timelines, labels, block numbers", false,
     /* The archiver writes archives too, which may lie in the data directory. */
     NAMES("!@.history", "!@@@.@.backup", "!archtemp.@.history", "!archtemp.@@@.@.backup",
           "pg_wal/archive_status/*.ready", "pg_wal/archive_status/*.done",
           "pg_wal/summaries/*.summary"),
     NAMES("pg_wal/RECOVERYHISTORY")},
    {"`pg_stat/pgstat.stat`, `autoprewarm.blocks`, `pg_stash_advice.tsv`",
     "counters, block numbers, advice for plans", false,
     NAMES("pg_stat/pgstat.stat", "pg_stat/pgstat.tmp", "pg_stat/repmgrd_state.txt",
           "autoprewarm.blocks", "pg_stash_advice.tsv"),
     NO_NAMES},
    {"`backup_label`, `tablespace_map`, `backup_manifest`, `postmaster.*`, configuration",
     "paths, settings, checksums of files; passwords in `primary_conninfo` as without `tde`", false,
     NAMES("backup_label", "backup_label.old", "tablespace_map", "tablespace_map.old",
           "postmaster.pid", "postmaster.opts", "standby.signal", "recovery.signal", "promote",
           "postgresql.auto.conf", "postgresql.conf", "pg_hba.conf", "pg_ident.conf",
           "pg_hosts.conf", "!.s.PGSQL.#.lock"),
     NAMES("backup_manifest", "fallback_promote", "logrotate", "~*.conf", "~*.conf.sample",
           "~*.conf.bak", "~*.conf.done", "pg_createsubscriber.conf.disabled",
           "~*.conf.backup", "patroni.dynamic.json",
           "*.crt", "*.key", "*.pem", "*.crl")},
    {"`pg_upgrade_output.d`", "definitions of objects; `pg_upgrade` removes it when it succeeds",
     false, NO_NAMES, NAMES("pg_upgrade_output.d/>")},
    {"`tde.keymap`", "which key of the keystore each tablespace has: names of keys, no keys", false,
     NO_NAMES, NAMES("tde.keymap", ".tde.keymap")},
    {"`pg_stat_tmp/tde.standby.*`", "which keys a standby says it has: names of keys, no keys", false,
     NO_NAMES, NAMES("pg_stat_tmp/tde.standby.#")},
    {"`tde.json`", "UUID and path of the keystore", false, NO_NAMES,
     NAMES("tde.json", ".tde.json")},
    {"the server's log",
     "by default no statements and no rows; an error's first line can quote a value; "
     "other settings log more",
     /* It may have any name: who writes it is known by its process (policy/unknown.c). */
     true, NAMES("current_logfiles"), NAMES("log/>", "pg_log/>", "*.log")},
    {"`pg_stat_tmp/*.stat`, `pg_stat/*.stat`, `global/pg_store_plans.stat`",
     "`pg_stat_statements` and its like keep statement texts; utility statements with their "
     "literals",
     true, NAMES("pg_stat_tmp/*.stat", "pg_stat/*.stat", "global/pg_store_plans.stat"), NO_NAMES},
    {"`pg_password_history`", "`credcheck` keeps hashes of passwords", true,
     NAMES("pg_password_history", "global/pg_password_history"), NO_NAMES},
};

enum { RULES = sizeof rules / sizeof rules[0] };

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_hex(char c)
{
    return is_digit(c) || (c >= 'A' && c <= 'F');
}

static bool is_of_component(char c)
{
    return c != '\0' && c != '/';
}

static bool ends_as_temporary(const char *rest)
{
    while (*rest != '\0') {
        size_t length = 0;

        if (strncmp(rest, ".temp", 5) == 0)
            length = 5;
        else if (strncmp(rest, ".tmp", 4) == 0)
            length = 4;
        else if (rest[0] == '.' && is_digit(rest[1]))
            for (length = 2; is_digit(rest[length]);)
                length++;
        if (length == 0)
            return false;
        rest += length;
    }
    return true;
}

static bool matches(const char *pattern, const char *name);

/* One or more characters of a kind, and then what the rest of the pattern says. */
static bool matches_run(bool (*is_of_kind)(char), const char *pattern, const char *name)
{
    while (is_of_kind(*name))
        if (matches(pattern, ++name))
            return true;
    return false;
}

/* Only the next wildcard goes one call deeper, and a pattern has three at most. */
static bool matches(const char *pattern, const char *name)
{
    for (;; pattern++, name++) {
        switch (*pattern) {
        case '\0':
            return ends_as_temporary(name);
        case '>':
            return *name != '\0';
        case '*':
            return matches_run(is_of_component, pattern + 1, name);
        case '#':
            return matches_run(is_digit, pattern + 1, name);
        case '%':
            return matches_run(is_hex, pattern + 1, name);
        case '@':
            for (size_t i = 0; i < 8; i++)
                if (!is_hex(name[i]))
                    return false;
            name += 7;
            break;
        default:
            if (*name != *pattern)
                return false;
        }
    }
}

static bool is_directory_of_server(const char *name)
{
    return strncmp(name, "base/", 5) == 0 || strncmp(name, "global/", 7) == 0 ||
           strncmp(name, "pg_", 3) == 0;
}

static bool matches_name(const char *pattern, const char *name)
{
    if (*pattern != '!' && *pattern != '~')
        return matches(pattern, name);
    if (matches(pattern + 1, name))
        return true;
    if (*pattern == '~' && is_directory_of_server(name))
        return false;
    for (const char *slash = strchr(name, '/'); slash != NULL; slash = strchr(slash + 1, '/'))
        if (matches(pattern + 1, slash + 1))
            return true;
    return false;
}

static bool matches_any(const char *const *patterns, const char *name)
{
    for (; *patterns != NULL; patterns++)
        if (matches_name(*patterns, name))
            return true;
    return false;
}

size_t tde_format_plain_count(void)
{
    return RULES;
}

const struct tde_plain_rule *tde_format_plain_rule(size_t number)
{
    return &rules[number];
}

int tde_format_plain_find(const char *name)
{
    for (int number = 0; number < RULES; number++)
        if (matches_any(rules[number].server, name) || matches_any(rules[number].others, name))
            return number;
    return -1;
}

bool tde_format_plain_is_written_by_server(const char *name)
{
    for (int number = 0; number < RULES; number++)
        if (matches_any(rules[number].server, name))
            return true;
    return false;
}
