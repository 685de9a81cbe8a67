/*
 * program/upgrade.h - what pg_upgrade needs to know of keys before it starts.
 */
#ifndef TDE_PROGRAM_UPGRADE_H
#define TDE_PROGRAM_UPGRADE_H

#include "program/settings.h"

/*
 * Whether this pg_upgrade gets keys: 1 when both clusters are encrypted with the keystore of
 * SETTINGS, and then the new one's map says what keys the old one's tablespaces have; 0 when
 * neither is encrypted; -1 after a message.
 */
int tde_program_upgrade_keys(const struct tde_program_settings *settings, int argc,
                             char *const argv[]);

#endif
