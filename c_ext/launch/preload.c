/*
 * launch/preload.c - see launch/preload.h.
 */
#define _GNU_SOURCE /* memrchr */
#include "launch/preload.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static bool is_ours(const char *entry, size_t length)
{
    const char *slash = memrchr(entry, '/', length);
    const char *name = slash == NULL ? entry : slash + 1;
    size_t name_length = length - (size_t)(name - entry);

    return name_length == strlen(TDE_INTERPOSER) && memcmp(name, TDE_INTERPOSER, name_length) == 0;
}

char *tde_launch_other_preloads(const char *list)
{
    char *kept = calloc(list == NULL ? 1 : strlen(list) + 1, 1);
    size_t used = 0;

    while (kept != NULL && list != NULL && *list != '\0') {
        size_t length = strcspn(list, ": ");

        if (length > 0 && !is_ours(list, length)) {
            if (used > 0)
                kept[used++] = ':';
            memcpy(kept + used, list, length);
            used += length;
        }
        list += length + (list[length] != '\0');
    }
    return kept;
}
