/*
 * format/handover.c - see format/handover.h.
 */
#include "format/handover.h"

#include "crypto/cipher.h"
#include "format/bytes.h"

#include <string.h>

enum {
    LENGTH = 8,
    FLAGS = 12,
    KEYSTORE = TDE_HANDOVER_KEYSTORE,
    MASTER_KEY_ID = 32,
    MASTER_KEY = 48,
    PATH_LENGTH = 80,
};

static const uint8_t magic[8] = {'T', 'D', 'E', 'H', 'A', 'N', 'D', 1};

static void store_be(uint8_t *to, size_t value, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        to[i] = (uint8_t)(value >> 8 * (bytes - 1 - i));
}

const char *tde_format_handover_parse(const uint8_t *data, size_t length,
                                      struct tde_key_scope *scope, bool *closed,
                                      char path[TDE_HANDOVER_PATH_MAX + 1])
{
    size_t path_length;

    if (length < TDE_HANDOVER_PATH || memcmp(data, magic, sizeof magic) != 0 ||
        tde_format_load_be32(data + FLAGS) > TDE_HANDOVER_CLOSED)
        return "the key hand-over has an unknown format";
    path_length = (size_t)data[PATH_LENGTH] << 8 | data[PATH_LENGTH + 1];
    /* A zero byte would end the path before its end, and so name another keystore. */
    if (path_length == 0 || path_length > TDE_HANDOVER_PATH_MAX ||
        length != TDE_HANDOVER_PATH + path_length ||
        tde_format_load_be32(data + LENGTH) != length ||
        memchr(data + TDE_HANDOVER_PATH, '\0', path_length) != NULL)
        return "the key hand-over is damaged";
    *closed = tde_format_load_be32(data + FLAGS) == TDE_HANDOVER_CLOSED;
    memcpy(scope->keystore, data + KEYSTORE, sizeof scope->keystore);
    memcpy(scope->master_key_id, data + MASTER_KEY_ID, sizeof scope->master_key_id);
    memcpy(scope->master_key, data + MASTER_KEY, sizeof scope->master_key);
    memcpy(path, data + TDE_HANDOVER_PATH, path_length);
    path[path_length] = '\0';
    return NULL;
}

size_t tde_format_handover_write(uint8_t to[TDE_HANDOVER_MAX], const struct tde_key_scope *scope,
                                 bool closed, const char *path)
{
    size_t path_length = strlen(path);
    size_t length = TDE_HANDOVER_PATH + path_length;

    memset(to, 0, TDE_HANDOVER_PATH);
    memcpy(to, magic, sizeof magic);
    store_be(to + LENGTH, length, 4);
    store_be(to + FLAGS, closed ? TDE_HANDOVER_CLOSED : 0, 4);
    memcpy(to + KEYSTORE, scope->keystore, sizeof scope->keystore);
    memcpy(to + MASTER_KEY_ID, scope->master_key_id, sizeof scope->master_key_id);
    memcpy(to + MASTER_KEY, scope->master_key, sizeof scope->master_key);
    store_be(to + PATH_LENGTH, path_length, 2);
    memcpy(to + TDE_HANDOVER_PATH, path, path_length);
    return length;
}
