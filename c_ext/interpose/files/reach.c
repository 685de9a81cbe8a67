/*
 * files/reach.c - see files/reach.h.
 *
 * A descriptor's entry holds one word, so that threads never see half of a change: the number
 * of cuts in its upper part, and below it the whole units that the file had at that time.
 */
#include "interpose/files/reach.h"

#include <stdatomic.h>
#include <sys/mman.h>

#include "interpose/libc/symbols.h"

#define UNIT_BITS 24u /* 128 GiB; of a longer file this much is known */
#define MOST_UNITS ((UINT64_C(1) << UNIT_BITS) - 1)

/* Shared by the processes of a server; it begins with 1, so that a new entry knows nothing. */
static _Atomic uint64_t *cuts;

void tde_files_reach_create(void)
{
    void *made = tde_libc()->mmap(NULL, sizeof *cuts, PROT_READ | PROT_WRITE,
                                  MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    if (made == MAP_FAILED)
        return;
    cuts = made;
    atomic_store(cuts, 1);
}

uint64_t tde_files_reach_cuts(void)
{
    return cuts == NULL ? 0 : atomic_load(cuts);
}

void tde_files_reach_note(struct tde_file *file, off_t size, uint64_t seen)
{
    uint64_t units = (uint64_t)size / TDE_BLOCK_SIZE;

    if (seen != 0 && !tde_files_reach_includes(file, size))
        atomic_store(&file->reach,
                     seen << UNIT_BITS | (units < MOST_UNITS ? units : MOST_UNITS));
}

bool tde_files_reach_includes(const struct tde_file *file, off_t offset)
{
    uint64_t reach = atomic_load(&file->reach);

    return reach >> UNIT_BITS == tde_files_reach_cuts() && reach != 0 &&
           (uint64_t)offset <= (reach & MOST_UNITS) * TDE_BLOCK_SIZE;
}

void tde_files_reach_count_cut(void)
{
    if (cuts != NULL)
        atomic_fetch_add(cuts, 1);
}
