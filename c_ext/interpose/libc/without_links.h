/*
 * libc/without_links.h - open a file by a path on which there is no link and no other mount.
 */
#ifndef TDE_INTERPOSE_LIBC_WITHOUT_LINKS_H
#define TDE_INTERPOSE_LIBC_WITHOUT_LINKS_H

#include <stdbool.h>
#include <sys/types.h>

/*
 * As open, relative to the working directory; *FD is what open would return, with errno.  False
 * when a link or a mount is in the way, or the kernel cannot tell (before Linux 5.6, or where a
 * seccomp profile forbids to ask): then nothing was opened, and the caller finds out by itself.
 */
bool tde_libc_open_without_links(const char *path, int flags, mode_t mode, int *fd);

#endif
