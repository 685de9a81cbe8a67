/*
 * format/tar.c - the headers of pg_wal.tar, and the order in which they are written.
 */
#include "format/tar.h"

#include <string.h>

/* Offsets and lengths of the fields, as in PostgreSQL's pgtar.h. */
#define NAME_LENGTH 100u
#define SIZE_AT 124u
#define SIZE_LENGTH 12u
#define CHECKSUM_AT 148u
#define CHECKSUM_LENGTH 8u
#define TYPE_AT 156u
#define MAGIC_AT 257u
#define PREFIX_AT 345u

static bool is_zero(const uint8_t *from, size_t length)
{
    for (size_t i = 0; i < length; i++)
        if (from[i] != 0)
            return false;
    return true;
}

/*
 * An octal number as PostgreSQL prints it: digits, then at most a space or zeros.  It prints
 * larger numbers in base 256, which no member of this archive can need.
 */
static bool parse_octal(const uint8_t *from, size_t length, uint64_t *value)
{
    uint64_t number = 0;
    size_t n = 0;

    for (; n < length && from[n] >= '0' && from[n] <= '7'; n++)
        number = number << 3 | (uint64_t)(from[n] - '0');
    if (n == 0)
        return false;
    if (n < length && from[n] == ' ')
        n++;
    *value = number;
    return is_zero(from + n, length - n);
}

static bool has_checksum(const uint8_t *block)
{
    uint64_t expected;
    uint64_t sum = CHECKSUM_LENGTH * (uint64_t)' ';

    if (!parse_octal(block + CHECKSUM_AT, CHECKSUM_LENGTH, &expected))
        return false;
    for (size_t i = 0; i < TDE_TAR_BLOCK; i++)
        if (i < CHECKSUM_AT || i >= CHECKSUM_AT + CHECKSUM_LENGTH)
            sum += block[i];
    return sum == expected;
}

/* The 8 digits of a timeline, then .history. */
static bool parse_history(const char *name, struct tde_identity *id)
{
    char digits[25] = "0000000000000000";

    if (strlen(name) < 8 || (strcmp(name + 8, ".history") != 0 &&
                             strcmp(name + 8, ".history.tmp") != 0))
        return false;
    /* As the last third of a segment's name, so that one parser knows the digits. */
    memcpy(digits + 16, name, 8);
    if (tde_format_parse_segment_name(digits, id) != 0)
        return false;
    id->file_class = TDE_CLASS_PLAIN;
    return true;
}

static bool parse_status(const char *name)
{
    static const char directory[] = "archive_status/";
    static const char done[] = ".done";
    const char *file = name + sizeof directory - 1;

    if (strncmp(name, directory, sizeof directory - 1) != 0 || strchr(file, '/') != NULL)
        return false;
    return strlen(file) > sizeof done - 1 &&
           strcmp(file + strlen(file) - (sizeof done - 1), done) == 0;
}

static bool parse_name(const char *name, struct tde_tar_member *member)
{
    if (tde_format_parse_segment_name(name, &member->id) == 0 &&
        (name[24] == '\0' || strcmp(name + 24, ".partial") == 0)) {
        member->kind = TDE_TAR_SEGMENT;
        return true;
    }
    memset(&member->id, 0, sizeof member->id);
    if (parse_history(name, &member->id)) {
        member->kind = TDE_TAR_HISTORY;
        return true;
    }
    memset(&member->id, 0, sizeof member->id);
    member->kind = TDE_TAR_STATUS;
    return parse_status(name);
}

const char *tde_format_tar_parse(const uint8_t *block, struct tde_tar_member *member)
{
    char name[NAME_LENGTH + 1] = "";

    memset(member, 0, sizeof *member);
    if (memcmp(block + MAGIC_AT, "ustar\0" "00", 8) != 0 || !has_checksum(block))
        return "there is no tar header where one must be";
    if (block[TYPE_AT] != '0' || block[PREFIX_AT] != 0)
        return "a member of the tar file is not a regular file with a short name";
    if (!parse_octal(block + SIZE_AT, SIZE_LENGTH, &member->size))
        return "the size of a member of the tar file is not a number";
    memcpy(name, block, NAME_LENGTH);
    if (!parse_name(name, member))
        return "a member of the tar file is neither WAL nor a timeline history";
    return NULL;
}

size_t tde_format_tar_locate(const struct tde_tar *tar, uint64_t offset, uint64_t size,
                             size_t length, enum tde_tar_place *place)
{
    uint64_t inside;

    *place = TDE_TAR_NOWHERE;
    if (offset == (tar->open ? tar->header : size)) {
        if (length < TDE_TAR_BLOCK || offset % TDE_TAR_BLOCK != 0)
            return length;
        *place = TDE_TAR_AT_HEADER;
        return TDE_TAR_BLOCK;
    }
    /* Nothing before the open member may change, and nothing may leave a gap. */
    if (!tar->open || offset > size || offset < tar->header + TDE_TAR_BLOCK)
        return length;
    inside = offset - (tar->header + TDE_TAR_BLOCK);
    if (tar->member.kind == TDE_TAR_HISTORY) {
        *place = TDE_TAR_IN_PLAIN;
    } else if (tar->member.kind == TDE_TAR_SEGMENT && inside < TDE_TAR_MAX_SEGMENT &&
               length <= TDE_TAR_MAX_SEGMENT - inside) {
        *place = TDE_TAR_IN_SEGMENT;
    }
    return length;
}

const char *tde_format_tar_begin(struct tde_tar *tar, uint64_t offset, const uint8_t *block)
{
    struct tde_tar_member member;
    const char *problem;

    if (is_zero(block, TDE_TAR_BLOCK)) {
        tar->ended = true;
        return NULL;
    }
    if (tar->ended)
        return "a tar file was continued behind its end";
    problem = tde_format_tar_parse(block, &member);
    if (problem != NULL)
        return problem;
    if (member.size != 0)
        return "the size of a member of the tar file was written before its bytes";
    tar->open = true;
    tar->header = offset;
    tar->member = member;
    return NULL;
}

static bool is_same_file(const struct tde_tar_member *a, const struct tde_tar_member *b)
{
    return a->kind == b->kind && memcmp(a->id.word, b->id.word, sizeof a->id.word) == 0;
}

/*
 * A segment whose length is not a multiple of a block would not be a WAL file, and one whose
 * size is not what was written would move the place where the next header is looked for.
 */
const char *tde_format_tar_complete(struct tde_tar *tar, uint64_t size, const uint8_t *block)
{
    struct tde_tar_member member;
    const char *problem = tde_format_tar_parse(block, &member);
    uint64_t stored;

    if (problem != NULL)
        return problem;
    if (!is_same_file(&member, &tar->member))
        return "a member of the tar file got the name of another file";
    stored = (member.size + TDE_TAR_BLOCK - 1) / TDE_TAR_BLOCK * TDE_TAR_BLOCK;
    if (member.size > TDE_TAR_MAX_SEGMENT || tar->header + TDE_TAR_BLOCK + stored != size)
        return "a member of the tar file has another size than its header says";
    if (member.kind == TDE_TAR_SEGMENT && member.size % TDE_BLOCK_SIZE != 0)
        return "a WAL segment in the tar file is not a whole number of blocks";
    tar->open = false;
    tar->member = member;
    return NULL;
}

int tde_format_tar_cut(struct tde_tar *tar, uint64_t length)
{
    if (!tar->open || length != tar->header)
        return -1;
    tar->open = false;
    return 0;
}
