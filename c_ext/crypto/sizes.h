/*
 * crypto/sizes.h - how long keys, tweaks and units are.
 */
#ifndef TDE_CRYPTO_SIZES_H
#define TDE_CRYPTO_SIZES_H

#define TDE_BLOCK_SIZE 8192u      /* one XTS data unit and one PostgreSQL block */
#define TDE_CIPHER_BLOCK 16u      /* one AES block */
#define TDE_TWEAK_SIZE 16u

#define TDE_MAX_KEY_SIZE 64u
#define TDE_TAIL_KEY_SIZE 32u
#define TDE_GCM_KEY_SIZE 32u
#define TDE_GCM_NONCE_SIZE 12u
#define TDE_GCM_TAG_SIZE 16u
#define TDE_DIGEST_SIZE 32u

#endif
