/*
 * extension/interposer.h - the way to libtde_io.so in this process.
 */
#ifndef TDE_EXTENSION_INTERPOSER_H
#define TDE_EXTENSION_INTERPOSER_H

#include "interpose/calls/extension.h"

/* NULL in a server that runs without keys. */
const struct tde_io_status *tde_extension_interposer(void);

/* The same; ERROR instead of NULL. */
const struct tde_io_status *tde_extension_require_interposer(void);

#endif
