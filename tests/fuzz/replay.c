/*
 * replay.c - run a fuzz target on files, for compilers that bring no fuzzer.
 *
 * Each file is tried as it is, cut at every length, and with every byte changed.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void replay(uint8_t *data, size_t size)
{
    static const uint8_t changes[] = {0x01, 0x80, 0x0F, 0xFF};

    for (size_t length = 0; length <= size; length++)
        LLVMFuzzerTestOneInput(data, length);
    for (size_t at = 0; at < size; at++)
        for (size_t i = 0; i < sizeof changes; i++) {
            data[at] ^= changes[i];
            LLVMFuzzerTestOneInput(data, size);
            data[at] ^= changes[i];
        }
}

int main(int argc, char **argv)
{
    static uint8_t data[65536];

    for (int i = 1; i < argc; i++) {
        FILE *file = fopen(argv[i], "rb");

        if (file == NULL) {
            perror(argv[i]);
            return 2;
        }
        replay(data, fread(data, 1, sizeof data, file));
        fclose(file);
    }
    printf("%d files\n", argc - 1);
    return 0;
}
