/*
 * format/identity.c - from a PostgreSQL file name to the identity of its blocks.
 *
 * The names are those of PostgreSQL's relpath.c, xlog_internal.h and fd.c (15 to 19).
 * Only the last components of a path count, so the same parser serves the server,
 * which opens "base/5/16384" relative to its data directory, and the tools, which
 * put the data directory in front.
 */
#include "format/identity.h"

#include "format/bytes.h"
#include "format/constants.h"

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#define MAX_COMPONENTS 6 /* the deepest: pg_tblspc/OID/PG_x/pgsql_tmp/NAME.fileset/FILE */
#define SEGMENT_NAME_LENGTH 24

struct component {
    const char *text;
    size_t length;
};

/* The last components of a path; at[0] is the file's own name, at[1] its directory, … */
struct components {
    struct component at[MAX_COMPONENTS];
};

static void split(const char *path, struct components *parts)
{
    const char *end = path + strlen(path);

    memset(parts, 0, sizeof *parts);
    for (size_t n = 0; n < MAX_COMPONENTS && end > path;) {
        const char *start = end;

        while (start > path && start[-1] != '/')
            start--;
        /* An empty component ("//") or "." names nothing. */
        if (start != end && !(end - start == 1 && *start == '.')) {
            parts->at[n].text = start;
            parts->at[n].length = (size_t)(end - start);
            n++;
        }
        end = start > path ? start - 1 : path;
    }
}

static bool equals(const struct component *part, const char *text)
{
    return part->length == strlen(text) && memcmp(part->text, text, part->length) == 0;
}

static bool has_prefix(const struct component *part, const char *text)
{
    size_t length = strlen(text);

    return part->length >= length && memcmp(part->text, text, length) == 0;
}

static bool has_suffix(const struct component *part, const char *text)
{
    size_t length = strlen(text);

    return part->length >= length &&
           memcmp(part->text + part->length - length, text, length) == 0;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* PostgreSQL prints OIDs and relfilenumbers with %u: no sign, no leading zero. */
static size_t parse_number(const char *text, size_t length, uint32_t *value)
{
    uint64_t number = 0;
    size_t n = 0;

    while (n < length && is_digit(text[n])) {
        number = number * 10 + (uint64_t)(text[n] - '0');
        if (number > UINT32_MAX)
            return 0;
        n++;
    }
    if (n == 0 || (text[0] == '0' && n > 1))
        return 0;
    *value = (uint32_t)number;
    return n;
}

static bool is_number(const struct component *part, uint32_t *value)
{
    return part->length > 0 && parse_number(part->text, part->length, value) == part->length;
}

static int hex_value(char c)
{
    if (is_digit(c))
        return c - '0';
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

int tde_format_parse_segment_name(const char *name, struct tde_identity *id)
{
    for (size_t w = 0; w < 3; w++) {
        uint32_t word = 0;

        for (size_t i = 0; i < 8; i++) {
            int digit = hex_value(name[w * 8 + i]); /* The terminator is no digit either. */

            if (digit < 0)
                return -1;
            word = word << 4 | (uint32_t)digit;
        }
        id->word[w] = word;
    }
    id->file_class = TDE_CLASS_WAL;
    return 0;
}

/* The history of a base backup, which has the name of the segment where it began. */
static bool is_backup_history(const char *rest)
{
    static const char suffix[] = ".backup";
    size_t digits = 0;

    if (*rest++ != '.')
        return false;
    while (digits < 8 && hex_value(rest[digits]) >= 0)
        digits++;
    rest += digits;
    return digits == 8 && strncmp(rest, suffix, sizeof suffix - 1) == 0 &&
           (rest[sizeof suffix - 1] == '.' || rest[sizeof suffix - 1] == '\0');
}

/* 24 hexadecimal digits, with or without ".partial", and basic_archive's archtemp.SEGMENT.* */
static bool parse_wal(const struct component *file, struct tde_identity *id)
{
    static const char archtemp[] = "archtemp.";
    const char *name = file->text;
    size_t length = file->length;

    if (has_prefix(file, archtemp)) {
        name += sizeof archtemp - 1;
        length -= sizeof archtemp - 1;
        if (length <= SEGMENT_NAME_LENGTH || name[SEGMENT_NAME_LENGTH] != '.' ||
            is_backup_history(name + SEGMENT_NAME_LENGTH))
            return false;
    } else if (length != SEGMENT_NAME_LENGTH &&
               !(length == SEGMENT_NAME_LENGTH + 8 && has_suffix(file, ".partial"))) {
        return false;
    }
    return tde_format_parse_segment_name(name, id) == 0;
}

static bool parse_fork(const char **text, size_t *length, uint8_t *fork)
{
    static const struct {
        const char *suffix;
        uint8_t fork;
    } forks[] = {{"_fsm", TDE_FORK_FSM}, {"_vm", TDE_FORK_VM}, {"_init", TDE_FORK_INIT}};

    *fork = TDE_FORK_MAIN;
    if (*length == 0 || **text != '_')
        return true;
    for (size_t i = 0; i < sizeof forks / sizeof forks[0]; i++) {
        size_t n = strlen(forks[i].suffix);

        if (*length >= n && memcmp(*text, forks[i].suffix, n) == 0) {
            *fork = forks[i].fork;
            *text += n;
            *length -= n;
            return true;
        }
    }
    return false;
}

/* [t<backend>_]<relfilenumber>[_fsm|_vm|_init][.<segment>] */
static bool parse_relation_file(const struct component *file, struct tde_identity *id)
{
    const char *text = file->text;
    size_t length = file->length;
    uint32_t number = 0;
    size_t n;

    id->file_class = TDE_CLASS_RELATION;
    if (length > 0 && *text == 't') {
        n = parse_number(text + 1, length - 1, &number);
        if (n == 0 || n + 2 > length || text[n + 1] != '_')
            return false;
        text += n + 2;
        length -= n + 2;
        id->file_class = TDE_CLASS_TEMP_RELATION;
    }
    n = parse_number(text, length, &number);
    if (n == 0 || number == 0)
        return false;
    id->word[1] = number;
    text += n;
    length -= n;
    if (!parse_fork(&text, &length, &id->fork))
        return false;
    if (length == 0)
        return true;
    if (*text != '.' || length == 1 ||
        parse_number(text + 1, length - 1, &number) != length - 1)
        return false;
    /* The first segment has no suffix; with 32-bit block numbers there are 32768 at most. */
    if (number == 0 || number > UINT32_MAX / TDE_BLOCKS_PER_SEGMENT)
        return false;
    id->first_block = number * TDE_BLOCKS_PER_SEGMENT;
    return true;
}

/* The directory of a relation file names its tablespace and its database. */
static bool parse_relation(const struct components *parts, struct tde_identity *id)
{
    if (!parse_relation_file(&parts->at[0], id))
        return false;
    if (equals(&parts->at[1], "global")) {
        id->tablespace = TDE_GLOBAL_TABLESPACE;
        id->word[0] = 0;
        return true;
    }
    if (!is_number(&parts->at[1], &id->word[0]))
        return false;
    if (equals(&parts->at[2], "base")) {
        id->tablespace = TDE_DEFAULT_TABLESPACE;
        return true;
    }
    return has_prefix(&parts->at[2], "PG_") && is_number(&parts->at[3], &id->tablespace) &&
           equals(&parts->at[4], "pg_tblspc");
}

/* The start of the directory that PostgreSQL keeps temporary files of a tablespace in. */
static const char *parse_temporary_directory(const struct components *parts, size_t depth)
{
    uint32_t oid;

    if (depth + 3 < MAX_COMPONENTS && has_prefix(&parts->at[depth + 1], "PG_") &&
        is_number(&parts->at[depth + 2], &oid) && equals(&parts->at[depth + 3], "pg_tblspc"))
        return parts->at[depth + 3].text;
    if (equals(&parts->at[depth + 1], "base") || equals(&parts->at[depth + 1], "global"))
        return parts->at[depth + 1].text;
    return NULL;
}

/*
 * Files that mean nothing to the next start of the server.  xlogtemp.<pid> is one of
 * them although real WAL may be written to it: it is encoded again when it is renamed.
 */
static const char *parse_ephemeral(const struct components *parts)
{
    const struct component *file = &parts->at[0];

    /* The data directory itself may lie in a "pgsql_tmp", so a miss here decides nothing. */
    for (size_t depth = 1; depth <= 2; depth++) {
        const char *start = NULL;

        if (equals(&parts->at[depth], "pgsql_tmp"))
            start = parse_temporary_directory(parts, depth);
        if (start != NULL)
            return start;
    }
    if (equals(&parts->at[1], "pg_wal") && has_prefix(file, "xlogtemp."))
        return parts->at[1].text;
    if (equals(&parts->at[1], "pg_notify"))
        return parts->at[1].text;
    if (equals(&parts->at[2], "pg_replslot") && has_suffix(file, ".spill"))
        return parts->at[2].text;
    return NULL;
}

enum tde_file_class tde_format_parse_path(const char *path, struct tde_identity *id,
                                          const char **name)
{
    struct components parts;

    *name = NULL;
    memset(id, 0, sizeof *id);
    split(path, &parts);
    if (parts.at[0].length == 0)
        return TDE_CLASS_PLAIN;
    if (parse_wal(&parts.at[0], id))
        return TDE_CLASS_WAL;
    memset(id, 0, sizeof *id);
    if (parse_relation(&parts, id))
        return id->file_class;
    memset(id, 0, sizeof *id);
    *name = parse_ephemeral(&parts);
    if (*name != NULL)
        id->file_class = TDE_CLASS_EPHEMERAL;
    return id->file_class;
}

bool tde_format_parse_tablespace_link(const char *path, uint32_t *oid)
{
    struct components parts;

    split(path, &parts);
    return is_number(&parts.at[0], oid) && *oid != 0 && equals(&parts.at[1], "pg_tblspc");
}

typedef uint64_t both_halves __attribute__((vector_size(TDE_TWEAK_SIZE)));

/*
 * At once, because the cipher reads it at once: a processor passes a value on from a store to a
 * load only when one store holds all of it, and else waits until it is in the cache: 10 ns of the
 * 320 that AES-256 takes for a page.
 */
static void store(uint8_t tweak[TDE_TWEAK_SIZE], uint64_t high, uint64_t low)
{
    both_halves whole = {tde_format_be64(high), tde_format_be64(low)};

    memcpy(tweak, &whole, sizeof whole);
}

/*
 * Within one key no two blocks share a tweak: the words and the block number are
 * PostgreSQL's own unique name of the block, and the class in the last byte keeps
 * files apart whose numbers may coincide.  The one exception is temporary relations
 * of different backends with the same relfilenumber (docs/threat-model.md).
 */
int tde_format_tweak(const struct tde_identity *id, uint64_t block,
                     uint8_t tweak[TDE_TWEAK_SIZE])
{
    uint64_t number = id->first_block + block;
    uint64_t low;

    if (block > UINT32_MAX || number > UINT32_MAX ||
        (id->file_class == TDE_CLASS_WAL && number >= 1u << 24))
        return -1;
    switch (id->file_class) {
    case TDE_CLASS_WAL:
        low = (uint64_t)id->word[2] << 32 | number << 8;
        break;
    case TDE_CLASS_EPHEMERAL:
        low = number << 32 | (id->word[2] & 0xFFFFFF00u);
        break;
    case TDE_CLASS_RELATION:
    case TDE_CLASS_TEMP_RELATION:
        low = number << 32 | (uint32_t)id->fork << 24 | TDE_FORMAT_VERSION << 8;
        break;
    case TDE_CLASS_PLAIN:
    default:
        return -1;
    }
    store(tweak, (uint64_t)id->word[0] << 32 | id->word[1], low | (uint8_t)id->file_class);
    return 0;
}
