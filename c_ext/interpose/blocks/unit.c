/*
 * blocks/unit.c - encode and decode data units with the key of an open file.
 */
#include "interpose/blocks/unit.h"

#include <errno.h>
#include <string.h>

#include "crypto/cipher.h"
#include "format/block.h"
#include "interpose/blocks/counters.h"
#include "interpose/keys/ring.h"

static size_t whole_part(size_t length)
{
    return length - length % TDE_CIPHER_BLOCK;
}

/* OpenSSL refuses only when memory is short or its library is broken. */
static int failed(int error)
{
    errno = error;
    return -1;
}

/*
 * A partial AES block exists only in ephemeral files (docs/format.md, section 5).  For
 * other classes it cannot be encrypted and must not be stored: no key for it exists.
 */
static int mask_tail(struct tde_cipher *cipher, const uint8_t *tweak, const uint8_t *src,
                     uint8_t *dst, size_t length)
{
    size_t whole = whole_part(length);

    if (whole == length)
        return 0;
    if (!tde_crypto_cipher_has_tail_key(cipher))
        return failed(EINVAL);
    if (dst != src)
        memcpy(dst + whole, src + whole, length - whole);
    if (tde_crypto_mask_tail(cipher, tweak, (uint32_t)(whole / TDE_CIPHER_BLOCK), dst + whole,
                             length - whole) != 0) {
        memset(dst + whole, 0, length - whole);
        return failed(EIO);
    }
    return 0;
}

bool tde_blocks_keeps_zeros(const struct tde_file *file, size_t length)
{
    return length >= TDE_CIPHER_BLOCK || file->id.file_class != TDE_CLASS_EPHEMERAL;
}

/* 1: the unit is zeros and done.  0: CIPHER and TWEAK are ready.  -1: errno is set. */
static int begin(const struct tde_file *file, uint64_t unit, const uint8_t *src, uint8_t *dst,
                 size_t length, struct tde_cipher **cipher, uint8_t tweak[TDE_TWEAK_SIZE])
{
    if (length == 0 || (tde_blocks_keeps_zeros(file, length) && tde_crypto_is_zero(src, length))) {
        memset(dst, 0, length);
        return 1;
    }
    *cipher = tde_keys_cipher(file->key);
    if (*cipher == NULL)
        return -1;
    if (tde_format_tweak(&file->id, unit, tweak) != 0)
        return failed(EFBIG);
    return 0;
}

int tde_blocks_encode_unit(const struct tde_file *file, uint64_t unit, const uint8_t *src,
                           uint8_t *dst, size_t length)
{
    uint8_t tweak[TDE_TWEAK_SIZE];
    struct tde_cipher *cipher;
    int state = begin(file, unit, src, dst, length, &cipher, tweak);

    if (state != 0)
        return state < 0 ? -1 : 0;
    if (mask_tail(cipher, tweak, src, dst, length) != 0)
        return -1;
    if (tde_crypto_encrypt(cipher, tweak, src, dst, whole_part(length)) != 0)
        return failed(EIO);
    tde_blocks_count_encrypted(file, length);
    return 0;
}

int tde_blocks_decode_unit(const struct tde_file *file, uint64_t unit, const uint8_t *src,
                           uint8_t *dst, size_t length)
{
    unsigned unwritten = tde_format_unwritten_sectors(src, length);
    uint8_t tweak[TDE_TWEAK_SIZE];
    struct tde_cipher *cipher;
    int state = begin(file, unit, src, dst, length, &cipher, tweak);

    if (state != 0)
        return state < 0 ? -1 : 0;
    if (tde_crypto_cipher_has_tail_key(cipher)) {
        if (mask_tail(cipher, tweak, src, dst, length) != 0)
            return -1;
    } else if (dst != src) {
        /* A write that failed half-way left these bytes; nobody was told that they exist. */
        memcpy(dst + whole_part(length), src + whole_part(length),
               length - whole_part(length));
    }
    if (tde_crypto_decrypt(cipher, tweak, src, dst, whole_part(length)) != 0)
        return failed(EIO);
    tde_format_clear_unwritten(dst, unwritten);
    tde_blocks_count_decrypted(file, length);
    return 0;
}

int tde_blocks_encode_units(const struct tde_file *file, uint64_t first, const uint8_t *src,
                            uint8_t *dst, size_t count)
{
    struct tde_cipher *cipher = tde_keys_cipher(file->key);
    ssize_t ciphered;

    if (cipher == NULL)
        return -1;
    ciphered = tde_format_encrypt_blocks(cipher, &file->id, first, src, dst, count);
    if (ciphered < 0)
        return failed(EIO);
    tde_blocks_count_encrypted(file, (size_t)ciphered * TDE_BLOCK_SIZE);
    return 0;
}

int tde_blocks_decode_units(const struct tde_file *file, uint64_t first, const uint8_t *src,
                            uint8_t *dst, size_t count)
{
    struct tde_cipher *cipher = tde_keys_cipher(file->key);
    ssize_t ciphered;

    if (cipher == NULL)
        return -1;
    ciphered = tde_format_decrypt_blocks(cipher, &file->id, first, src, dst, count);
    if (ciphered < 0)
        return failed(EIO);
    tde_blocks_count_decrypted(file, (size_t)ciphered * TDE_BLOCK_SIZE);
    return 0;
}
