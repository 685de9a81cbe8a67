/*
 * program/server.h - is the server still one whose file calls the interposer knows?
 */
#ifndef TDE_PROGRAM_SERVER_H
#define TDE_PROGRAM_SERVER_H

#include "program/settings.h"

/*
 * Look at a server that was replaced since `tde pg install-bin` (an upgrade of its package), which
 * may use a call of the C library that the interposer does not know.  One that uses none is as good
 * as the one before.  0, or -1 after a message.
 */
int tde_program_check_server(const struct tde_program_settings *settings);

#endif
