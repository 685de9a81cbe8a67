/*
 * program/server.c - see program/server.h.
 *
 * The same look as tde/postgres/server/symbols.py, which a server's user often cannot run: it wrote
 * down what to look for.  A line of server-symbols has a mark and a name: "~" the beginning of the
 * names of file calls, "+" a call that is known, "=" what the server must export.
 */
#include "program/server.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define SYMBOLS_FILE "server-symbols"
#define INSTALL_AGAIN "Run again: tde pg install-bin or tde pg register. It checks the new server."
#define MAX_SYMBOLS_FILE (1L << 20)

/* An ELF file in memory, and its table of dynamic symbols. */
struct image {
    const uint8_t *bytes;
    size_t size;
    const Elf64_Sym *symbols;
    size_t count;
    const char *names;
    size_t names_size;
};

static bool is_inside(const struct image *image, uint64_t offset, uint64_t size)
{
    return offset <= image->size && size <= image->size - offset;
}

/* A section's header, if it and its content are inside of the file; copied, for its alignment. */
static bool find_section(const struct image *image, const Elf64_Ehdr *header, size_t number,
                         Elf64_Shdr *section)
{
    uint64_t offset = header->e_shoff + (uint64_t)number * sizeof *section;

    if (number >= header->e_shnum || header->e_shentsize != sizeof *section ||
        offset < header->e_shoff || !is_inside(image, offset, sizeof *section))
        return false;
    memcpy(section, image->bytes + offset, sizeof *section);
    return is_inside(image, section->sh_offset, section->sh_size);
}

/* Find the dynamic symbols; false for what is no dynamic program of this machine's kind. */
static bool find_symbols(struct image *image)
{
    Elf64_Ehdr header;
    Elf64_Shdr table;
    Elf64_Shdr names;

    if (image->size < sizeof header)
        return false;
    memcpy(&header, image->bytes, sizeof header);
    if (memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_ident[EI_CLASS] != ELFCLASS64)
        return false;
    for (size_t number = 0; find_section(image, &header, number, &table); number++) {
        if (table.sh_type != SHT_DYNSYM)
            continue;
        if (table.sh_offset % sizeof(uint64_t) != 0 ||
            !find_section(image, &header, table.sh_link, &names) || names.sh_size == 0 ||
            image->bytes[names.sh_offset + names.sh_size - 1] != '\0')
            return false;
        image->symbols = (const Elf64_Sym *)(const void *)(image->bytes + table.sh_offset);
        image->count = table.sh_size / sizeof *image->symbols;
        image->names = (const char *)image->bytes + names.sh_offset;
        image->names_size = names.sh_size;
        return true;
    }
    return false;
}

static const char *name_of(const struct image *image, size_t number)
{
    uint32_t at = image->symbols[number].st_name;

    return at < image->names_size ? image->names + at : "";
}

static bool is_exported(const struct image *image, const char *name)
{
    for (size_t number = 0; number < image->count; number++)
        if (image->symbols[number].st_shndx != SHN_UNDEF &&
            strcmp(name_of(image, number), name) == 0)
            return true;
    return false;
}

/* Whether a line of LIST with this mark is NAME, or begins it. */
static bool is_listed(const char *list, char mark, const char *name)
{
    while (*list != '\0') {
        size_t length = strcspn(list, "\n");

        if (length > 1 && *list == mark && strncmp(list + 1, name, length - 1) == 0 &&
            (mark == '~' || name[length - 1] == '\0'))
            return true;
        list += length + (list[length] == '\n');
    }
    return false;
}

/* The first call that is not known, or symbol that is missing; NULL for a good server. */
static const char *find_cause(const struct image *image, char *list)
{
    static char missing[NAME_MAX];

    for (size_t number = 0; number < image->count; number++) {
        const char *name = name_of(image, number);
        const char *plain = strncmp(name, "__", 2) == 0 ? name + 2 : name;

        if (image->symbols[number].st_shndx == SHN_UNDEF && is_listed(list, '~', plain) &&
            !is_listed(list, '+', name))
            return name;
    }
    for (const char *at = strchr(list, '='); at != NULL; at = strchr(at + 1, '=')) {
        snprintf(missing, sizeof missing, "%.*s", (int)strcspn(at + 1, "\n"), at + 1);
        if (!is_exported(image, missing))
            return missing;
    }
    return NULL;
}

/* The list of `tde pg install-bin`; NULL where an earlier release left none. */
static char *read_list(const struct tde_program_settings *settings)
{
    char path[PATH_MAX];
    struct stat status;
    char *list = NULL;
    int fd;

    if (tde_program_path(path, settings->directory, SYMBOLS_FILE) != 0)
        return NULL;
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return NULL;
    if (fstat(fd, &status) == 0 && status.st_size > 0 && status.st_size < MAX_SYMBOLS_FILE)
        list = calloc((size_t)status.st_size + 1, 1);
    if (list != NULL && read(fd, list, (size_t)status.st_size) != status.st_size) {
        free(list);
        list = NULL;
    }
    close(fd);
    return list;
}

static int refuse(const struct tde_program_settings *settings, const char *path,
                  const char *cause)
{
    tde_program_error(settings->program, INSTALL_AGAIN,
                      "%s is not the server that %s was made for, perhaps after an upgrade: %s%s",
                      path, settings->directory, cause == NULL ? "" : "it has or lacks ",
                      cause == NULL ? "it could not be looked at" : cause);
    return -1;
}

/* Look at the new server's symbols. */
static int check_symbols(const struct tde_program_settings *settings, const char *path, int fd,
                         const struct stat *status)
{
    struct image image = {.size = (size_t)status->st_size};
    char *list = read_list(settings);
    void *mapped = image.size == 0 ? MAP_FAILED
                                   : mmap(NULL, image.size, PROT_READ, MAP_PRIVATE, fd, 0);
    const char *cause = NULL;
    int result = -1;

    image.bytes = mapped;
    if (list == NULL || mapped == MAP_FAILED || !find_symbols(&image) ||
        (status->st_mode & (S_ISUID | S_ISGID)) != 0 ||
        (cause = find_cause(&image, list)) != NULL)
        refuse(settings, path, cause);
    else
        result = 0;
    if (mapped != MAP_FAILED)
        munmap(mapped, image.size);
    free(list);
    return result;
}

int tde_program_check_server(const struct tde_program_settings *settings)
{
    char path[PATH_MAX];
    struct stat status;
    int result = 0;
    int fd = -1;

    if (tde_program_path(path, settings->bindir, "postgres") == 0)
        fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &status) != 0) {
        tde_program_error(settings->program, INSTALL_AGAIN, "could not look at %s/postgres: %s",
                          settings->bindir, strerror(errno));
        result = -1;
    } else if (status.st_size != settings->postgres_size ||
               status.st_mtim.tv_sec * 1000000000LL + status.st_mtim.tv_nsec !=
                   settings->postgres_mtime) {
        result = check_symbols(settings, path, fd, &status);
    }
    if (fd >= 0)
        close(fd);
    return result;
}
