/*
 * fuzz_handover.c - any bytes as the hand-over of keys (c_ext/io_keyring.c).
 *
 * The parser is private to its file and fills the key ring, so the file is included here.
 */
#include "io_keyring.c"

#include <stdio.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds, const char *what)
{
    if (holds)
        return;
    fprintf(stderr, "%s\n", what);
    abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *exact = malloc(size > 0 ? size : 1);

    /* On the heap, where the sanitizer sees each byte too far; zeros, as a new mapping is. */
    ring = calloc(1, sizeof *ring);
    require(exact != NULL && ring != NULL, "no memory");
    memcpy(exact, data, size);
    if (parse_handover(exact, size) == NULL) {
        require(size > HANDOVER_PATH && size <= HANDOVER_MAX, "a length that cannot be");
        require(tde_load_be32(data + HANDOVER_LENGTH) == size, "another length than it says");
        require(memcmp(ring->scope.keystore, data + 16, 16) == 0 &&
                    memcmp(ring->scope.master_key_id, data + 32, 16) == 0 &&
                    memcmp(ring->scope.master_key, data + 48, 32) == 0,
                "a field is lost");
        require(memcmp(ring->keystore, data + HANDOVER_PATH, size - HANDOVER_PATH) == 0 &&
                    ring->keystore[size - HANDOVER_PATH] == '\0',
                "the path is lost");
    }
    free(ring);
    ring = NULL;
    free(exact);
    return 0;
}
