/*
 * keys/present.h - which keys the keystore has, in words that one server tells another.
 *
 * Names of keys, no keys: they stand in file names, in the key map and in locations of tablespaces.
 */
#ifndef TDE_INTERPOSE_KEYS_PRESENT_H
#define TDE_INTERPOSE_KEYS_PRESENT_H

#include <stdbool.h>
#include <stddef.h>

/*
 * A key in the list: the first digits of its id.  48 bits tell a thousand random ids apart with all
 * certainty that is needed, and a start-up packet has room for 10,000 characters in all.  A key of
 * releases before the map is the OID of its tablespace, which has fewer digits.
 */
#define TDE_PRESENT_DIGITS 12
#define TDE_PRESENT_MOST 500 /* keys in a list; the newest ones, of more */
#define TDE_PRESENT_SIZE (TDE_PRESENT_MOST * (TDE_PRESENT_DIGITS + 1) + 8)
/* At the end of a list that is not complete. */
#define TDE_PRESENT_MORE "more"

/*
 * Write the list of the keystore's keys, separated by commas; the first keys of WAL and of other
 * tablespaces, which every keystore has, are not in it.  False when the keystore cannot be read.
 */
bool tde_keys_present(char list[TDE_PRESENT_SIZE]);

/* Whether LIST has the key of an id in hexadecimal digits; of an incomplete list: or might. */
bool tde_keys_present_has(const char *list, const char *id);

#endif
