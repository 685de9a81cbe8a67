/*
 * program/real_arguments.c - see program/real_arguments.h.
 */
#include "program/real_arguments.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_WITH_CHECKSUMS 18 /* Its initdb turns them on by itself, and can be told not to. */
#define NO_CHECKSUMS "--no-data-checksums"

/*
 * Programs look for their siblings where they are themselves.  PostgreSQL's own must find its own,
 * which have got the keys already; a program of an extension must find the stand-ins.
 */
static char *own_name(const struct tde_program_settings *settings,
                      const struct tde_arguments *arguments, char *path)
{
    static char stand_in[PATH_MAX];

    if (arguments->is_known ||
        tde_program_path(stand_in, settings->directory, settings->program) != 0)
        return path;
    return stand_in;
}

/* Take an argument out; whether it was there. */
static bool take_out(char **arguments, const char *unwanted)
{
    for (; *arguments != NULL; arguments++)
        if (strcmp(*arguments, unwanted) == 0) {
            for (; *arguments != NULL; arguments++)
                arguments[0] = arguments[1];
            return true;
        }
    return false;
}

static char **end_of(char **arguments)
{
    while (*arguments != NULL)
        arguments++;
    return arguments;
}

/* Clusters get data checksums, as from `tde pg init`, unless the caller does not want them. */
static void add_checksums(const struct tde_program_settings *settings, char **arguments)
{
    static char checksums[] = "--data-checksums";
    static char no_checksums[] = NO_CHECKSUMS;
    static char options[] = "-o";

    if (strcmp(settings->program, "initdb") == 0) {
        if (!take_out(arguments, NO_CHECKSUMS))
            *end_of(arguments) = checksums;
        else if (settings->major >= FIRST_WITH_CHECKSUMS)
            *end_of(arguments) = no_checksums;
        return;
    }
    for (char **argument = arguments; *argument != NULL; argument++)
        if (strstr(*argument, NO_CHECKSUMS) != NULL)
            return;
    /* pg_ctl puts all of its options for initdb together. */
    end_of(arguments)[0] = options;
    end_of(arguments)[0] = checksums;
}

char **tde_program_real_arguments(const struct tde_program_settings *settings,
                                  const struct tde_arguments *arguments, char *path, int argc,
                                  char *const argv[], bool has_keys)
{
    static char no_verify[] = "--no-verify-checksums";
    char **made = calloc((size_t)argc + 3, sizeof *made);

    if (made == NULL)
        return NULL;
    memcpy(made, argv, (size_t)argc * sizeof *made);
    made[0] = own_name(settings, arguments, path);
    if (has_keys && arguments->adds_no_verify)
        *end_of(made) = no_verify;
    if (has_keys && arguments->need == TDE_NEED_CREATE && settings->adds_checksums)
        add_checksums(settings, made);
    return made;
}
