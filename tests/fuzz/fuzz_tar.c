/*
 * fuzz_tar.c - any bytes as a header of pg_wal.tar, and any order of writes (c_ext/format/tar.c).
 *
 * Besides memory errors this looks for what would be worse: WAL that is taken for something
 * that is stored as it is, or for another segment's.  The input is a header and then pairs
 * of bytes that each write something somewhere.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/tar.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds, const char *what)
{
    if (holds)
        return;
    fprintf(stderr, "%s\n", what);
    abort();
}

/* What a parsed header says must be what its name says, by its first 100 bytes. */
static void check_member(const uint8_t *block, const struct tde_tar_member *member)
{
    char name[101] = "";
    char expected[64];
    const uint32_t *word = member->id.word;

    memcpy(name, block, 100);
    switch (member->kind) {
    case TDE_TAR_SEGMENT:
        snprintf(expected, sizeof expected, "%08X%08X%08X", word[0], word[1], word[2]);
        require(strncmp(name, expected, 24) == 0, "another segment");
        require(name[24] == '\0' || strcmp(name + 24, ".partial") == 0, "more than a segment");
        require(member->id.file_class == TDE_CLASS_WAL, "not the class of WAL");
        break;
    case TDE_TAR_HISTORY:
        snprintf(expected, sizeof expected, "%08X.history", word[2]);
        require(strncmp(name, expected, strlen(expected)) == 0, "another timeline");
        require(strlen(name) <= strlen(expected) + 4, "more than a history file");
        break;
    case TDE_TAR_STATUS:
    default:
        require(strncmp(name, "archive_status/", 15) == 0, "not in archive_status");
        require(strlen(name) >= 5 && strcmp(name + strlen(name) - 5, ".done") == 0, "not done");
        break;
    }
    require(block[156] == '0' && block[345] == 0, "not a regular file");
}

/* Write LENGTH bytes at OFFSET as interpose/walfiles/tar.c does; returns how many were accepted. */
static uint64_t store(struct tde_tar *tar, uint64_t offset, uint64_t size, const uint8_t *block,
                      size_t length)
{
    struct tde_tar before = *tar;
    enum tde_tar_place place;
    size_t here = tde_format_tar_locate(tar, offset, size, length, &place);
    const char *problem;

    require(memcmp(&before, tar, sizeof before) == 0, "locating changed the state");
    require(here > 0 && here <= length, "no progress");
    switch (place) {
    case TDE_TAR_AT_HEADER:
        require(here == TDE_TAR_BLOCK && offset % TDE_TAR_BLOCK == 0, "not a header's place");
        require(offset == (before.open ? before.header : size), "a header elsewhere");
        problem = before.open ? tde_format_tar_complete(tar, size, block)
                              : tde_format_tar_begin(tar, offset, block);
        require(problem == NULL || memcmp(&before, tar, sizeof before) == 0,
                "what was refused changed the state");
        return problem == NULL ? here : 0;
    case TDE_TAR_IN_SEGMENT:
        require(before.open && before.member.kind == TDE_TAR_SEGMENT, "not in a segment");
        require(offset >= before.header + TDE_TAR_BLOCK && offset <= size &&
                    offset + here - before.header - TDE_TAR_BLOCK <= TDE_TAR_MAX_SEGMENT,
                "outside of the segment");
        return here;
    case TDE_TAR_IN_PLAIN:
        require(before.open && before.member.kind == TDE_TAR_HISTORY, "plain, but no history");
        require(offset >= before.header + TDE_TAR_BLOCK && offset <= size,
                "outside of the history");
        return here;
    case TDE_TAR_NOWHERE:
    default:
        return 0;
    }
}

/* Each pair of bytes is a write: where, and how much. */
static void write_somewhere(const uint8_t *ops, size_t count, uint8_t *block)
{
    static const size_t lengths[] = {512, 8192, 1, 511, 1024, 100000, 0x40000000, 7};
    static const uint8_t zeros[TDE_TAR_BLOCK];
    struct tde_tar tar = {0};
    uint64_t size = 0;

    for (size_t i = 0; i + 1 < count; i += 2) {
        uint64_t places[] = {size, tar.header, tar.header + 512, 0, size + 1, size - size % 512,
                             tar.header + 511, size / 2};
        uint64_t offset = places[ops[i] % 8];
        size_t length = lengths[ops[i + 1] % 8];
        const uint8_t *from = ops[i] & 0x80 ? zeros : block;
        uint64_t stored = store(&tar, offset, size, from, length);

        if (ops[i] & 0x40 && tde_format_tar_cut(&tar, offset) == 0)
            size = offset;
        if (offset + stored > size)
            size = offset + stored;
        require(!tar.open || tar.header + TDE_TAR_BLOCK <= size, "a member behind the end");
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct tde_tar_member member;
    uint8_t *block;

    if (size < TDE_TAR_BLOCK)
        return 0;
    block = malloc(TDE_TAR_BLOCK); /* On the heap, where the sanitizer sees each byte too far. */
    if (block == NULL)
        return 0;
    memcpy(block, data, TDE_TAR_BLOCK);
    if (tde_format_tar_parse(block, &member) == NULL)
        check_member(block, &member);
    write_somewhere(data + TDE_TAR_BLOCK, size - TDE_TAR_BLOCK, block);
    /* A fuzzer does not find a checksum by chance, so the same once more with the right one. */
    memcpy(block + 257, "ustar\0" "00", 8);
    memset(block + 148, ' ', 8);
    unsigned int sum = 0;
    for (size_t i = 0; i < TDE_TAR_BLOCK; i++)
        sum += block[i];
    snprintf((char *)block + 148, 8, "%07o", sum);
    block[155] = ' ';
    if (tde_format_tar_parse(block, &member) == NULL)
        check_member(block, &member);
    write_somewhere(data + TDE_TAR_BLOCK, size - TDE_TAR_BLOCK, block);
    free(block);
    return 0;
}
