/*
 * keys/memory.c - see keys/memory.h.
 */
#include "interpose/keys/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "interpose/libc/report.h"
#include "interpose/libc/symbols.h"

#ifndef SYS_memfd_secret
#define SYS_memfd_secret 447 /* the same on every architecture that has it */
#endif

/*
 * Memory that neither /proc nor ptrace nor the kernel itself can read, and that never reaches
 * swap; NULL where the kernel has none, or the limit on locked memory is too low.
 */
static void *map_unreadable(size_t size)
{
    long fd = syscall(SYS_memfd_secret, O_CLOEXEC);
    void *made = MAP_FAILED;

    if (fd < 0)
        return NULL;
    if (tde_libc()->ftruncate((int)fd, (off_t)size) == 0)
        made = tde_libc()->mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, (int)fd, 0);
    tde_libc()->close((int)fd);
    return made == MAP_FAILED ? NULL : made;
}

void *tde_keys_memory_shared(size_t size)
{
    void *made = tde_libc()->mmap(NULL, size, PROT_READ | PROT_WRITE,
                                  MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    return made == MAP_FAILED ? NULL : made;
}

/* The secrets of the start come first, so a low limit is used for them. */
static void *map_locked(size_t size)
{
    void *made = tde_keys_memory_shared(size);
    size_t part = size / 2;

    if (made == NULL)
        return NULL;
    madvise(made, size, MADV_DONTDUMP);
    if (mlock(made, size) == 0)
        return made;
    while (part > 0 && mlock(made, part) != 0)
        part /= 2;
    if (part == 0)
        tde_libc_report("could not lock the key memory (%s), so keys may reach swap space; "
                        "HINT: raise the limit on locked memory (ulimit -l) to at least %zu kB",
                        strerror(errno), size / 1024 + 1);
    else
        tde_libc_report("could lock only %zu of %zu kB for keys, so those of many tablespaces may "
                        "reach swap space; HINT: raise the limit on locked memory (ulimit -l)",
                        part / 1024, size / 1024 + 1);
    return made;
}

void *tde_keys_memory_secret(size_t size)
{
    void *made = map_unreadable(size);

    return made != NULL ? made : map_locked(size);
}
