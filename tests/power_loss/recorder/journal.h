/*
 * journal.h - the journal: what changed, in its order.
 *
 * The journal says in which order the programs on it wrote, synced and renamed, so that the
 * states that a power cut may leave can be built afterwards (disk.py).  It begins with the
 * 8 bytes "TDEPOWR" 1.  Then one record follows the other, all numbers little-endian:
 *
 *   1 byte   what happened, see below      2 bytes  length of the path
 *   4 bytes  number of the file            2 bytes  length of the second path
 *   8 bytes  A                             4 bytes  length of the data
 *   8 bytes  B                             then path, second path and data
 *
 *   k  a file that was there before        path
 *   c  file created                        A owner << 32 | group, B mode, path
 *   w  written; W by O_SYNC or O_DSYNC     A offset, data
 *   t  truncated                           A length
 *   a  allocated                           A offset, B length
 *   f  fsync; D fdatasync                  path
 *   F  fsync of a directory                path
 *   m  directory made                      A owner << 32 | group, B mode, path
 *   s  symbolic link made                  A owner << 32 | group, path, its target as second path
 *   r  renamed, l linked                   path, second path
 *   u  unlinked, d directory removed       path
 *   p  mode changed                        A mode, path
 *   o  owner changed                       A owner << 32 | group, path; 2^32-1 leaves one as it is
 *   N  a note: what a client was told      data
 *
 * Paths begin with a slash.
 */
#ifndef RECORDER_JOURNAL_H
#define RECORDER_JOURNAL_H

#include <stddef.h>
#include <stdint.h>

struct change {
    char what;
    uint32_t number;
    uint64_t a, b;
    const char *path, *second;
    const void *data;
    size_t length;
};

/* Return 0, or -1 and errno.  Whatever fails later ends the program. */
int journal_open(const char *path);
void journal_close(void);

/* Held while a change is made and written down, so that both have the same order. */
void journal_lock(void);

/* Let go after a call that returned RESULT (0 or more, or -1 and errno); return it for FUSE. */
int journal_unlock(int result);

void journal_record(struct change change);
#define RECORD(...) journal_record((struct change){__VA_ARGS__})

/* The number of an open file.  CREATED: its inode is new, whatever had its number before. */
uint32_t journal_number(int fd, const char *path, int created);

#endif
