/*
 * keys/derived.c - tell a tablespace without a key record from one whose record was lost.
 *
 * Both have no file in the keystore.  For the second the derived key is wrong: pages would read
 * as noise, and new ones would be lost when the record comes back.  So some pages that
 * are there are looked at when the key is derived, once per start of the server.
 */
#include "interpose/keys/derived.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "crypto/cipher.h"
#include "format/block.h"
#include "format/identity.h"
#include "format/page.h"
#include "interpose/libc/symbols.h"
#include "interpose/libc/transfer.h"

/* A page may be torn after a crash, so one that does not fit is not yet a proof. */
#define SAMPLE_PAGES 16u

struct sample {
    struct tde_cipher *cipher;
    unsigned int pages; /* that were not zeros */
    bool fits;          /* one of them decrypted to a page */
};

static bool is_enough(const struct sample *sample)
{
    return sample->fits || sample->pages >= SAMPLE_PAGES;
}

/* Look at the first page of a file. */
static void look_at_file(const char *path, struct sample *sample)
{
    uint8_t page[TDE_BLOCK_SIZE];
    struct tde_identity id;
    const char *name;
    ssize_t length;
    int fd;

    if (tde_format_parse_path(path, &id, &name) != TDE_CLASS_RELATION)
        return;
    fd = tde_libc()->open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return;
    length = tde_libc_read_fully(fd, page, sizeof page, 0);
    tde_libc()->close(fd);
    if (length != (ssize_t)sizeof page || tde_crypto_is_zero(page, sizeof page))
        return;
    sample->pages++;
    if (tde_format_decrypt_blocks(sample->cipher, &id, 0, page, page, 1) == 0)
        sample->fits = tde_format_page_has_header(page);
}

/*
 * Look at the files of a database, or, with DATABASES, at those of all databases in PATH.
 * False when the directory cannot be read; one that is not there has no pages.
 */
static bool look_at_directory(const char *path, bool databases, struct sample *sample)
{
    DIR *directory = opendir(path);
    char inside[PATH_MAX];
    bool ok = true;

    if (directory == NULL)
        return errno == ENOENT || errno == ENOTDIR;
    while (ok && !is_enough(sample)) {
        const struct dirent *entry = readdir(directory);

        if (entry == NULL)
            break;
        if (entry->d_name[0] == '.' ||
            snprintf(inside, sizeof inside, "%s/%s", path, entry->d_name) >= PATH_MAX)
            continue;
        if (databases)
            ok = look_at_directory(inside, false, sample);
        else
            look_at_file(inside, sample);
    }
    closedir(directory);
    return ok;
}

/* The part of PATH up to pg_tblspc/OID/PG_VERSION, where the databases of a tablespace are. */
static bool find_version_directory(const char *path, char to[PATH_MAX])
{
    const char *database = strrchr(path, '/');
    size_t length;

    if (database == NULL)
        return false;
    database = memrchr(path, '/', (size_t)(database - path));
    if (database == NULL || database - path >= PATH_MAX)
        return false;
    length = (size_t)(database - path);
    memcpy(to, path, length);
    to[length] = '\0';
    return true;
}

bool tde_keys_derived_fits(const char *path, const struct tde_key *key)
{
    struct sample sample = {tde_crypto_cipher_new(key->algorithm, key->bytes), 0, false};
    char directory[PATH_MAX];
    bool ok;

    if (sample.cipher == NULL || path == NULL || !find_version_directory(path, directory)) {
        tde_crypto_cipher_free(sample.cipher);
        return false;
    }
    ok = look_at_directory(directory, true, &sample);
    tde_crypto_cipher_free(sample.cipher);
    return sample.fits || (ok && sample.pages == 0);
}
