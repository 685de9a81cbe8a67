/*
 * format/bytes.h - numbers in the byte order of all of tde's own formats.
 */
#ifndef TDE_FORMAT_BYTES_H
#define TDE_FORMAT_BYTES_H

#include <stdint.h>

static inline uint32_t tde_format_load_be32(const uint8_t *from)
{
    return (uint32_t)from[0] << 24 | (uint32_t)from[1] << 16 | (uint32_t)from[2] << 8 | from[3];
}

static inline void tde_format_store_be32(uint8_t *to, uint32_t value)
{
    to[0] = (uint8_t)(value >> 24);
    to[1] = (uint8_t)(value >> 16);
    to[2] = (uint8_t)(value >> 8);
    to[3] = (uint8_t)value;
}

/* The number whose bytes in memory are those of VALUE in that order. */
static inline uint64_t tde_format_be64(uint64_t value)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    return __builtin_bswap64(value);
#else
    return value;
#endif
}

#endif
