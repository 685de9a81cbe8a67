/*
 * libc/symbols.c - find the functions that the wrappers stand in front of.
 */
#include "interpose/libc/symbols.h"

#include <dlfcn.h>
#include <string.h>

struct tde_libc tde_libc_functions;
_Atomic int tde_libc_bound;

/*
 * Binding twice at the same time writes the same values, so it needs no lock.  A
 * symbol that this C library lacks stays NULL: then no program can have called it.
 * memcpy avoids the cast from object to function pointer that ISO C forbids.
 */
#define BIND(name)                                                                         \
    do {                                                                                   \
        void *symbol = dlsym(RTLD_NEXT, #name);                                            \
        memcpy(&tde_libc_functions.name, &symbol, sizeof symbol);                          \
    } while (0)

void tde_libc_bind(void)
{
    BIND(open);
    BIND(openat);
    BIND(close);
    BIND(close_range);
    BIND(closefrom);
    BIND(dup);
    BIND(dup2);
    BIND(dup3);
    BIND(fcntl);
    BIND(read);
    BIND(write);
    BIND(pread);
    BIND(pwrite);
    BIND(readv);
    BIND(writev);
    BIND(preadv);
    BIND(pwritev);
    BIND(preadv2);
    BIND(pwritev2);
    BIND(lseek);
    BIND(ftruncate);
    BIND(truncate);
    BIND(posix_fallocate);
    BIND(fallocate);
    BIND(copy_file_range);
    BIND(sendfile);
    BIND(splice);
    BIND(link);
    BIND(linkat);
    BIND(rename);
    BIND(renameat);
    BIND(renameat2);
    BIND(symlink);
    BIND(symlinkat);
    BIND(mkdir);
    BIND(mkdirat);
    BIND(unlink);
    BIND(unlinkat);
    BIND(rmdir);
    BIND(mmap);
    BIND(fopen);
    BIND(freopen);
    BIND(chdir);
    BIND(system);
    BIND(popen);
    tde_libc_bound = 1;
}

bool tde_libc_find(void *handle, const char *name, void *function)
{
    void *symbol = dlsym(handle, name);

    memcpy(function, &symbol, sizeof symbol);
    return symbol != NULL;
}
