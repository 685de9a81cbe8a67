/*
 * crypto/xts.h - AES-XTS under one key in one direction, one data unit at a time.
 */
#ifndef TDE_CRYPTO_XTS_H
#define TDE_CRYPTO_XTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "crypto/library.h"

struct tde_xts;

/* NAME is OpenSSL's, for example "AES-256-XTS".  NULL when LIBRARY refuses. */
struct tde_xts *tde_crypto_xts_new(const struct tde_library *library, const char *name,
                                   const uint8_t *key, size_t key_size, bool encrypt);
void tde_crypto_xts_free(struct tde_xts *xts);

/* One data unit under the 16-byte TWEAK; DST may equal SRC.  0, or -1 when OpenSSL refuses. */
int tde_crypto_xts_run(struct tde_xts *xts, const uint8_t *tweak, const uint8_t *src, uint8_t *dst,
                       size_t length);

#endif
