/*
 * program/keys.h - opening a keystore without a passphrase, and handing its key to a program.
 */
#ifndef TDE_PROGRAM_KEYS_H
#define TDE_PROGRAM_KEYS_H

#include <stdbool.h>
#include <stdint.h>

#include "format/keymap.h"
#include "program/settings.h"

enum tde_cluster_state { TDE_CLUSTER_PLAIN, TDE_CLUSTER_OURS, TDE_CLUSTER_UNUSABLE };

/*
 * Whether the cluster in DIRECTORY is encrypted with the keystore of SETTINGS; a directory that
 * is not there counts as plain, and its program will complain.  UNUSABLE after a message.
 */
enum tde_cluster_state tde_program_cluster_state(const struct tde_program_settings *settings,
                                                 const char *directory);

/* Put the interposer, without keys, into the environment of the program that is executed next. */
int tde_program_preload(const struct tde_program_settings *settings);

/*
 * Write an empty key map (format/keymap.h) into a cluster that initdb has just made in DIRECTORY.
 * 0, or -1 after a message.
 */
int tde_program_write_keymap(const struct tde_program_settings *settings, const char *directory);

/*
 * Put the interposer and the master key into the environment of the program that is executed
 * next.  0, or -1 after a message.
 */
int tde_program_hand_over(const struct tde_program_settings *settings);

/* Close the hand-over of this process; the program that it was for has its own descriptor. */
void tde_program_forget_hand_over(void);

/* Take what another program of this kind has left for its own out of the environment.  0 or -1. */
int tde_program_forget_all(void);

/* The UUID of the keystore, and the key of its clusters' maps.  0, or -1 after a message. */
int tde_program_map_key(const struct tde_program_settings *settings,
                        uint8_t keystore[TDE_UUID_SIZE], uint8_t map_key[TDE_KEYMAP_KEY_SIZE]);

#endif
