/*
 * keys/derived.h - a last look before a derived key is used for a tablespace.
 */
#ifndef TDE_INTERPOSE_KEYS_DERIVED_H
#define TDE_INTERPOSE_KEYS_DERIVED_H

#include <stdbool.h>

#include "format/keyrecord.h"

/*
 * Whether KEY can be that of the tablespace in which PATH lies: it is when the tablespace has
 * no page yet, or when one of its pages decrypts to a page.
 */
bool tde_keys_derived_fits(const char *path, const struct tde_key *key);

#endif
