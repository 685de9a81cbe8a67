/*
 * libc/symbols.h - the C library's own functions behind the wrappers, bound once.
 */
#ifndef TDE_INTERPOSE_LIBC_SYMBOLS_H
#define TDE_INTERPOSE_LIBC_SYMBOLS_H

#include <stdbool.h>
#include <stdio.h>
#include <sys/types.h>
#include <sys/uio.h>

/* Offsets are passed as off_t everywhere; 32-bit offsets would need a second set. */
_Static_assert(sizeof(off_t) == 8, "tde needs 64-bit file offsets");

struct tde_libc {
    int (*open)(const char *, int, ...);
    int (*openat)(int, const char *, int, ...);
    int (*close)(int);
    int (*close_range)(unsigned int, unsigned int, int);
    void (*closefrom)(int);
    int (*dup)(int);
    int (*dup2)(int, int);
    int (*dup3)(int, int, int);
    int (*fcntl)(int, int, ...);
    ssize_t (*read)(int, void *, size_t);
    ssize_t (*write)(int, const void *, size_t);
    ssize_t (*pread)(int, void *, size_t, off_t);
    ssize_t (*pwrite)(int, const void *, size_t, off_t);
    ssize_t (*readv)(int, const struct iovec *, int);
    ssize_t (*writev)(int, const struct iovec *, int);
    ssize_t (*preadv)(int, const struct iovec *, int, off_t);
    ssize_t (*pwritev)(int, const struct iovec *, int, off_t);
    ssize_t (*preadv2)(int, const struct iovec *, int, off_t, int);
    ssize_t (*pwritev2)(int, const struct iovec *, int, off_t, int);
    off_t (*lseek)(int, off_t, int);
    int (*ftruncate)(int, off_t);
    int (*truncate)(const char *, off_t);
    int (*posix_fallocate)(int, off_t, off_t);
    int (*fallocate)(int, int, off_t, off_t);
    ssize_t (*copy_file_range)(int, off_t *, int, off_t *, size_t, unsigned int);
    ssize_t (*sendfile)(int, int, off_t *, size_t);
    ssize_t (*splice)(int, off_t *, int, off_t *, size_t, unsigned int);
    int (*link)(const char *, const char *);
    int (*linkat)(int, const char *, int, const char *, int);
    int (*rename)(const char *, const char *);
    int (*renameat)(int, const char *, int, const char *);
    int (*renameat2)(int, const char *, int, const char *, unsigned int);
    int (*symlink)(const char *, const char *);
    int (*symlinkat)(const char *, int, const char *);
    int (*mkdir)(const char *, mode_t);
    int (*mkdirat)(int, const char *, mode_t);
    int (*unlink)(const char *);
    int (*unlinkat)(int, const char *, int);
    int (*rmdir)(const char *);
    void *(*mmap)(void *, size_t, int, int, int, off_t);
    FILE *(*fopen)(const char *, const char *);
    FILE *(*freopen)(const char *, const char *, FILE *);
    int (*chdir)(const char *);
    int (*system)(const char *);
    FILE *(*popen)(const char *, const char *);
};

extern struct tde_libc tde_libc_functions;
extern _Atomic int tde_libc_bound;

void tde_libc_bind(void);

/*
 * A function of another library or of the server, for HANDLE as dlsym has it, into *FUNCTION: a
 * pointer to it, because ISO C has no cast from an object pointer to a function pointer.  NULL
 * and false when there is none.
 */
bool tde_libc_find(void *handle, const char *name, void *function);

/* Constructors of other libraries may call a wrapper before ours has run. */
static inline const struct tde_libc *tde_libc(void)
{
    if (__builtin_expect(!tde_libc_bound, 0))
        tde_libc_bind();
    return &tde_libc_functions;
}

#define TDE_EXPORT __attribute__((visibility("default")))

#endif
