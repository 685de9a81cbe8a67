/*
 * extension/child.h - running the command `tde`, which does all that takes a keystore.
 *
 * So a backend derives no key, and SQL and the command line are one implementation.
 */
#ifndef TDE_EXTENSION_CHILD_H
#define TDE_EXTENSION_CHILD_H

#include <lib/stringinfo.h>

#define TDE_EXTENSION_MOST_SECRETS 2

/*
 * Bytes that the child gets, and nobody else ever: when no other program can look into it, it sends a
 * new socket by the one that is its standard input, and gets them there.
 */
struct tde_extension_secret {
    const char *bytes;
    size_t length;
};

/* The setting tde.command. */
extern char *tde_extension_command;

/*
 * Run "tde extension act VERB -D <data directory> [ARGUMENT...]", where ARGUMENTS ends with NULL,
 * and append what it prints to OUTPUT.  ERROR, with its message and its hint, when it fails; what it
 * says on its standard error otherwise is a WARNING each line.  It is ended with the query.
 */
void tde_extension_run(const char *verb, const char *const *arguments,
                       const struct tde_extension_secret *secrets, int count, StringInfo output);

#endif
