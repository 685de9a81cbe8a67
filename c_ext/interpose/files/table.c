/*
 * files/table.c - descriptor to file, in two levels.
 *
 * Descriptors are small numbers, so a table beats a hash.  Chunks are made when first
 * needed and never freed; looking a descriptor up takes no lock.
 */
#include "interpose/files/table.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK_FILES 1024u
#define CHUNKS 4096u /* four million descriptors, four times Linux's default ceiling */

static _Atomic(struct tde_file *) chunks[CHUNKS];

static struct tde_file *entry(int fd)
{
    unsigned int number = (unsigned int)fd;
    struct tde_file *chunk;

    if (fd < 0 || number / CHUNK_FILES >= CHUNKS)
        return NULL;
    chunk = atomic_load_explicit(&chunks[number / CHUNK_FILES], memory_order_acquire);
    return chunk == NULL ? NULL : &chunk[number % CHUNK_FILES];
}

struct tde_file *tde_files_find(int fd)
{
    struct tde_file *file = entry(fd);

    return file != NULL && file->encrypted ? file : NULL;
}

static int make_chunk(int fd)
{
    unsigned int number = (unsigned int)fd / CHUNK_FILES;
    struct tde_file *none = NULL;
    struct tde_file *made;

    if (fd < 0 || number >= CHUNKS)
        return EMFILE;
    made = aligned_alloc(TDE_CACHE_LINE, CHUNK_FILES * sizeof *made);
    if (made == NULL)
        return ENOMEM;
    memset(made, 0, CHUNK_FILES * sizeof *made);
    if (!atomic_compare_exchange_strong(&chunks[number], &none, made))
        free(made); /* Another thread was faster; its chunk is as good. */
    return 0;
}

int tde_files_set(int fd, const struct tde_file *file)
{
    if (entry(fd) == NULL) {
        int error = make_chunk(fd);

        if (error != 0)
            return error;
    }
    *entry(fd) = *file;
    return 0;
}

void tde_files_clear(int fd)
{
    struct tde_file *file = entry(fd);

    if (file != NULL)
        file->encrypted = false;
}

void tde_files_clear_range(unsigned int first, unsigned int last)
{
    for (unsigned int chunk = first / CHUNK_FILES; chunk < CHUNKS; chunk++) {
        if (chunk * CHUNK_FILES > last)
            break;
        if (chunks[chunk] == NULL)
            continue;
        for (unsigned int fd = chunk * CHUNK_FILES; fd < (chunk + 1) * CHUNK_FILES; fd++)
            if (fd >= first && fd <= last)
                tde_files_clear((int)fd);
    }
}

int tde_files_copy(int from, int to)
{
    struct tde_file *file = tde_files_find(from);

    if (file != NULL && file->is_tar)
        return EOPNOTSUPP; /* Each descriptor would know only of the members that it has begun. */
    if (file != NULL)
        return tde_files_set(to, file);
    tde_files_clear(to);
    return 0;
}
