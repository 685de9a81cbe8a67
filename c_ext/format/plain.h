/*
 * format/plain.h - the files of a cluster that are plain by design: the one list in the product.
 *
 * The server's library creates no other file in plaintext inside a cluster, tde audit reports
 * every other one, and docs/coverage.md shows the rows to people (a test keeps them equal).
 */
#ifndef TDE_FORMAT_PLAIN_H
#define TDE_FORMAT_PLAIN_H

#include <stdbool.h>
#include <stddef.h>

struct tde_plain_rule {
    const char *files;  /* what they are, as docs/coverage.md names them */
    const char *reason; /* why they may be plain; for a decision, what is in them */
    bool decision;      /* they can hold pieces of rows, so the operator has to decide about them */
    const char *const *server; /* patterns of what the server writes, up to NULL */
    const char *const *others; /* patterns of what only other programs write, up to NULL */
};

size_t tde_format_plain_count(void);
const struct tde_plain_rule *tde_format_plain_rule(size_t number);

/*
 * The number of the rule that NAME, a path relative to the data directory, falls under; -1 when
 * it is not in the list.
 */
int tde_format_plain_find(const char *name);

/* Whether the server itself writes a file of this name. */
bool tde_format_plain_is_written_by_server(const char *name);

#endif
