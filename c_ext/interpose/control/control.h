/*
 * control/control.h - reading and writing pg_control with the cluster's true state.
 *
 * The calls have the meaning and the errors of pread and pwrite.  What is stored says "in
 * production" where the truth is "shut down" (format/control.h).
 */
#ifndef TDE_INTERPOSE_CONTROL_CONTROL_H
#define TDE_INTERPOSE_CONTROL_CONTROL_H

#include <stdbool.h>
#include <sys/types.h>
#include <sys/uio.h>

/* Whether PATH is that of a cluster's control file. */
bool tde_control_is_path(const char *path);

ssize_t tde_control_pread(int fd, void *to, size_t length, off_t offset);

/* As pwritev; what is written is the whole file or does not matter here. */
ssize_t tde_control_pwritev(int fd, const struct iovec *iov, int count, off_t offset);

#endif
