/*
 * program/main.c - stands in for PostgreSQL's programs in a directory made by `tde pg install-bin`.
 *
 * It finds out whether the program that it is named after needs keys, hands them over, and
 * executes PostgreSQL's own.  It is not Python because init scripts and cluster managers start
 * these programs often, as users that may not reach a Python environment.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "program/arguments.h"
#include "program/create.h"
#include "program/keys.h"
#include "program/real_arguments.h"
#include "program/server.h"
#include "program/settings.h"
#include "program/stand_in.h"
#include "program/upgrade.h"

const char tde_stand_in = 1;

/* Whether the program gets keys: 1 or 0, or -1 after a message. */
static int wants_keys(const struct tde_program_settings *settings,
                      const struct tde_arguments *arguments, int argc, char *const argv[])
{
    if (settings->keystore[0] == '\0' || arguments->need == TDE_NEED_NOTHING ||
        arguments->need == TDE_NEED_PRELOAD)
        return 0;
    if (arguments->need == TDE_NEED_UPGRADE)
        return tde_program_upgrade_keys(settings, argc, argv);
    if (arguments->need != TDE_NEED_CLUSTER)
        return 1;
    switch (tde_program_cluster_state(settings, arguments->directory)) {
    case TDE_CLUSTER_OURS:
        return 1;
    case TDE_CLUSTER_PLAIN:
        return 0;
    case TDE_CLUSTER_UNUSABLE:
    default:
        return -1;
    }
}

int main(int argc, char *argv[])
{
    static struct tde_program_settings settings;
    struct tde_arguments arguments;
    char path[PATH_MAX];
    char **real;
    int keys;

    if (argc < 1 || tde_program_settings_load(&settings) != 0)
        return 1;
    arguments = tde_program_examine_arguments(settings.program, argc, argv, getenv("PGDATA"));
    settings.cluster = arguments.need == TDE_NEED_CLUSTER ? arguments.directory : NULL;
    keys = wants_keys(&settings, &arguments, argc, argv);
    if (keys < 0 || tde_program_path(path, settings.bindir, settings.program) != 0)
        return 1;
    /* What pg_upgrade, or another script of PostgreSQL's, has got is not for all that it starts. */
    if (keys == 0 && tde_program_forget_all() != 0)
        return 1;
    if (settings.keystore[0] != '\0' && arguments.need == TDE_NEED_PRELOAD &&
        tde_program_preload(&settings) != 0)
        return 1;
    if (keys > 0 && (tde_program_check_server(&settings) != 0 ||
                     tde_program_hand_over(&settings) != 0))
        return 1;
    real = tde_program_real_arguments(&settings, &arguments, path, argc, argv, keys > 0);
    if (real == NULL)
        return 1;
    if (keys > 0 && arguments.need == TDE_NEED_CREATE && arguments.directory != NULL)
        return tde_program_create(&settings, path, real, arguments.directory);
    execv(path, real);
    tde_program_error(settings.program, NULL, "could not run %s: %s", path, strerror(errno));
    return 127;
}
