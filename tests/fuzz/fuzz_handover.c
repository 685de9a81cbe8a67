/*
 * fuzz_handover.c - any bytes as the hand-over of keys (c_ext/format/handover.h).
 *
 * What is accepted means one thing only: written again it is the same bytes.
 */
#include "format/handover.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
    /* On the heap, where the sanitizer sees each byte too far, and full of what is no zero. */
    uint8_t *exact = malloc(size > 0 ? size : 1);
    uint8_t *again = malloc(TDE_HANDOVER_MAX);
    char *path = malloc(TDE_HANDOVER_PATH_MAX + 1);
    struct tde_key_scope scope;
    bool closed = false;

    require(exact != NULL && again != NULL && path != NULL, "no memory");
    memcpy(exact, data, size);
    memset(path, 'p', TDE_HANDOVER_PATH_MAX + 1);
    memset(&scope, 's', sizeof scope);
    if (tde_format_handover_parse(exact, size, &scope, &closed, path) == NULL) {
        require(size > TDE_HANDOVER_PATH && size <= TDE_HANDOVER_MAX, "a length that cannot be");
        require(memchr(path, '\0', TDE_HANDOVER_PATH_MAX + 1) != NULL, "a path without an end");
        require(tde_format_handover_write(again, &scope, closed, path) == size &&
                    memcmp(again, data, size) == 0,
                "a field is lost");
    } else {
        require(path[0] == 'p' && scope.keystore[0] == 's' && scope.master_key[0] == 's',
                "what was refused has changed something");
    }
    free(path);
    free(again);
    free(exact);
    return 0;
}
