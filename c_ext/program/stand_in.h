/*
 * program/stand_in.h - how a program of `tde pg install-bin` is told from PostgreSQL's own.
 */
#ifndef TDE_PROGRAM_STAND_IN_H
#define TDE_PROGRAM_STAND_IN_H

/*
 * Exported so that the interposer, which goes by names of programs, tells this stand-in from the
 * program it is named after when another program of this kind has started it.
 */
extern const char tde_stand_in __attribute__((visibility("default")));

#endif
