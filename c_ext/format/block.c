/*
 * format/block.c - see format/block.h.
 */
#include "format/block.h"

#include <string.h>

/* tde_crypto_encrypt or tde_crypto_decrypt */
typedef int direction_function(struct tde_cipher *cipher, const uint8_t tweak[TDE_TWEAK_SIZE],
                               const uint8_t *src, uint8_t *dst, size_t length);

static inline int blocks(direction_function *direction, struct tde_cipher *cipher,
                         const struct tde_identity *id, uint64_t first, const uint8_t *src,
                         uint8_t *dst, size_t count)
{
    uint8_t tweak[TDE_TWEAK_SIZE];

    for (size_t i = 0; i < count; i++, src += TDE_BLOCK_SIZE, dst += TDE_BLOCK_SIZE) {
        if (tde_crypto_is_zero(src, TDE_BLOCK_SIZE)) {
            if (dst != src)
                memset(dst, 0, TDE_BLOCK_SIZE);
        } else if (tde_format_tweak(id, first + i, tweak) != 0 ||
                   direction(cipher, tweak, src, dst, TDE_BLOCK_SIZE) != 0) {
            return -1;
        }
    }
    return 0;
}

int tde_format_encrypt_blocks(struct tde_cipher *cipher, const struct tde_identity *id,
                              uint64_t first, const uint8_t *src, uint8_t *dst, size_t count)
{
    return blocks(tde_crypto_encrypt, cipher, id, first, src, dst, count);
}

int tde_format_decrypt_blocks(struct tde_cipher *cipher, const struct tde_identity *id,
                              uint64_t first, const uint8_t *src, uint8_t *dst, size_t count)
{
    return blocks(tde_crypto_decrypt, cipher, id, first, src, dst, count);
}
