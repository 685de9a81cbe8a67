/*
 * fuzz_identity.c - any text as a file name (c_ext/format/identity.c).
 *
 * Besides memory errors this looks for what would be worse: two files of a cluster with the
 * same identity under the same key.  It writes the one name that an identity has and
 * compares it with the name that was parsed, so no two canonical names can share it.
 */
#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/constants.h"
#include "format/identity.h"

#define MAX_LENGTH 4096u
#define DEPTH 8

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds, const char *what, const char *path)
{
    if (holds)
        return;
    fprintf(stderr, "%s: \"%s\"\n", what, path);
    abort();
}

/* The components of PATH, the last one first; "" and "." name nothing.  Returns their number. */
static int split_backwards(char *path, char *parts[DEPTH])
{
    int count = 0;

    for (char *slash; count < DEPTH && *path != '\0'; *slash = '\0') {
        char *part;

        slash = strrchr(path, '/');
        part = slash == NULL ? path : slash + 1;
        if (*part != '\0' && strcmp(part, ".") != 0)
            parts[count++] = part;
        if (slash == NULL)
            break;
    }
    return count;
}

/* The canonical name of a relation's file; of a temporary one what comes after "t<backend>_". */
static void format_relation_file(const struct tde_identity *id, char to[64])
{
    static const char *const forks[] = {"", "_fsm", "_vm", "_init"};
    uint32_t segment = id->first_block / TDE_BLOCKS_PER_SEGMENT;
    int used = snprintf(to, 64, "%u%s", id->word[1], forks[id->fork]);

    if (segment > 0)
        snprintf(to + used, 64 - (size_t)used, ".%u", segment);
}

static void check_relation(const struct tde_identity *id, const char *path, char **parts, int count)
{
    char file[64];
    char number[16];
    const char *name = parts[0];

    format_relation_file(id, file);
    if (id->file_class == TDE_CLASS_TEMP_RELATION) {
        require(name[0] == 't' && isdigit((unsigned char)name[1]), "not a temporary table", path);
        name = strchr(name, '_') + 1;
    }
    require(strcmp(name, file) == 0, "the name is not that of its identity", path);
    require(id->first_block % TDE_BLOCKS_PER_SEGMENT == 0, "not the start of a segment", path);
    if (id->tablespace == TDE_GLOBAL_TABLESPACE && strcmp(parts[1], "global") == 0) {
        require(id->word[0] == 0, "a shared relation has no database", path);
        return;
    }
    snprintf(number, sizeof number, "%u", id->word[0]);
    require(count >= 3 && strcmp(parts[1], number) == 0, "another database", path);
    if (id->tablespace == TDE_DEFAULT_TABLESPACE && strcmp(parts[2], "base") == 0)
        return;
    snprintf(number, sizeof number, "%u", id->tablespace);
    require(count >= 5 && strncmp(parts[2], "PG_", 3) == 0 && strcmp(parts[3], number) == 0 &&
                strcmp(parts[4], "pg_tblspc") == 0,
            "another tablespace", path);
}

static void check_wal(const struct tde_identity *id, const char *path, const char *name)
{
    char digits[25];
    bool archived = strncmp(name, "archtemp.", 9) == 0;
    const char *rest = name + (archived ? 9 : 0);

    snprintf(digits, sizeof digits, "%08X%08X%08X", id->word[0], id->word[1], id->word[2]);
    require(strncmp(rest, digits, 24) == 0, "another segment", path);
    rest += 24;
    require(!archived || strlen(rest) != 16 || strcmp(rest + 9, ".backup") != 0 ||
                strspn(rest + 1, "0123456789ABCDEF") != 8,
            "the history of a backup is no WAL", path);
    require(archived ? *rest == '.' : *rest == '\0' || strcmp(rest, ".partial") == 0,
            "more than the name of a segment", path);
}

static void check_ephemeral(const char *path, const char *name)
{
    struct tde_identity again;
    const char *same;

    require(name >= path && name < path + strlen(path), "the name is not in the path", path);
    require(tde_format_parse_path(name, &again, &same) == TDE_CLASS_EPHEMERAL && same == name,
            "the name alone means something else", path);
}

static uint32_t load(const uint8_t *from)
{
    return (uint32_t)from[0] << 24 | (uint32_t)from[1] << 16 | (uint32_t)from[2] << 8 | from[3];
}

/* A tweak can be read back, so different blocks of different files have different ones. */
static void check_tweak(const struct tde_identity *id, const char *path, uint64_t block)
{
    uint8_t tweak[TDE_TWEAK_SIZE];
    uint64_t number = id->first_block + block;
    bool wal = id->file_class == TDE_CLASS_WAL;
    bool fits = block <= UINT32_MAX && number <= (wal ? 0xFFFFFFu : UINT32_MAX);

    require((tde_format_tweak(id, block, tweak) == 0) == fits, "a block that does not fit", path);
    if (!fits)
        return;
    require(load(tweak) == id->word[0] && load(tweak + 4) == id->word[1] &&
                tweak[15] == id->file_class,
            "the tweak lost a word", path);
    if (wal)
        require(load(tweak + 8) == id->word[2] && load(tweak + 12) >> 8 == number,
                "the tweak lost the segment or its block", path);
    else
        require(load(tweak + 8) == number, "the tweak lost the block", path);
    if (id->file_class == TDE_CLASS_RELATION || id->file_class == TDE_CLASS_TEMP_RELATION)
        require(tweak[12] == id->fork && tweak[13] == 0 && tweak[14] == TDE_FORMAT_VERSION,
                "the tweak lost the fork or the version", path);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint64_t blocks[] = {0, 1, 131071, 0xFFFFFF, 0x1000000, UINT32_MAX, 1ull << 32};
    char *parts[DEPTH] = {NULL};
    char copy[MAX_LENGTH + 1];
    struct tde_identity id;
    const char *name;
    char *path;

    if (size > MAX_LENGTH)
        return 0;
    path = calloc(size + 1, 1); /* On the heap, where the sanitizer sees each byte too far. */
    if (path == NULL)
        return 0;
    memcpy(path, data, size);
    snprintf(copy, sizeof copy, "%s", path);
    enum tde_file_class file_class = tde_format_parse_path(path, &id, &name);
    require(id.file_class == file_class, "two classes", path);
    require((name != NULL) == (file_class == TDE_CLASS_EPHEMERAL), "a name without use", path);
    int count = split_backwards(copy, parts);
    if (file_class == TDE_CLASS_RELATION || file_class == TDE_CLASS_TEMP_RELATION)
        check_relation(&id, path, parts, count);
    else if (file_class == TDE_CLASS_WAL)
        check_wal(&id, path, parts[0]);
    else if (file_class == TDE_CLASS_EPHEMERAL)
        check_ephemeral(path, name);
    for (size_t i = 0; file_class != TDE_CLASS_PLAIN && i < sizeof blocks / sizeof *blocks; i++)
        check_tweak(&id, path, blocks[i]);
    free(path);
    return 0;
}
