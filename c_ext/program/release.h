/*
 * program/release.h - the master key of a keystore without auto-open.key, which `tde` opens.
 */
#ifndef TDE_PROGRAM_RELEASE_H
#define TDE_PROGRAM_RELEASE_H

#include <stdbool.h>
#include <stdint.h>

#include "program/settings.h"

#define TDE_AUTO_OPEN_SIZE 136u /* of auto-open.key, docs/format.md, section 6 */

/* Whether the keystore has envelopes, one of which may be for starts that nobody watches. */
bool tde_program_has_envelopes(const struct tde_program_settings *settings);

/*
 * Have `tde keystore release` open the keystore, and take what auto-open.key would have; CLOSED is
 * set where sessions of a server are not to use what is encrypted.  It is asked once and kept until
 * tde_program_forget_release.  0, or -1 after a message.
 */
int tde_program_release(const struct tde_program_settings *settings,
                        uint8_t record[TDE_AUTO_OPEN_SIZE], bool *closed);

void tde_program_forget_release(void);

#endif
