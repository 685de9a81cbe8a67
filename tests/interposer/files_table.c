/*
 * files_table.c - the table of open files with descriptors that few systems let a test open.
 */
#include <stdio.h>
#include <stdlib.h>

#include "interpose/files/table.h"

static void require(bool holds, int line)
{
    if (holds)
        return;
    printf("line %d\n", line);
    exit(1);
}

#define REQUIRE(holds) require(holds, __LINE__)

int main(void)
{
    static const int numbers[] = {0, 1023, 1024, 65535, 65536, 70000, 1048575, 4194303};
    struct tde_file file = {.encrypted = true};

    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        int fd = numbers[i];

        file.id.word[0] = (uint32_t)fd;
        REQUIRE(tde_files_find(fd) == NULL);
        REQUIRE(tde_files_set(fd, &file) == 0);
        REQUIRE(tde_files_find(fd)->id.word[0] == (uint32_t)fd);
        REQUIRE(fd == 0 || tde_files_find(fd - 1) == NULL || fd - 1 == numbers[i - 1]);
    }
    REQUIRE(tde_files_copy(70000, 131072) == 0);
    REQUIRE(tde_files_find(131072)->id.word[0] == 70000);
    REQUIRE(tde_files_copy(5, 131072) == 0); /* A copy of a plain file is plain. */
    REQUIRE(tde_files_find(131072) == NULL);
    tde_files_clear_range(65536, 70000);
    REQUIRE(tde_files_find(65535) != NULL && tde_files_find(65536) == NULL);
    REQUIRE(tde_files_find(70000) == NULL && tde_files_find(1048575) != NULL);
    tde_files_clear_range(3, ~0u);
    REQUIRE(tde_files_find(0) != NULL && tde_files_find(4194303) == NULL);
    /* What the table cannot hold is refused, or its I/O would be plaintext. */
    REQUIRE(tde_files_set(4194304, &file) != 0 && tde_files_set(-1, &file) != 0);
    REQUIRE(tde_files_copy(0, 4194304) != 0 && tde_files_find(4194304) == NULL);
    puts("ok");
    return 0;
}
