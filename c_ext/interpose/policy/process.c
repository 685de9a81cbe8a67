/*
 * policy/process.c - see policy/process.h.
 */
#include "interpose/policy/process.h"

#include <dlfcn.h>
#include <stddef.h>
#include <string.h>

#include "interpose/libc/symbols.h"

typedef const char *get_config_option_fn(const char *name, bool missing_ok,
                                         bool restrict_privileged);
typedef const char *get_backend_type_desc_fn(int type);

/* The numbers of the types change between releases; the words do not. */
bool tde_policy_process_is(const char *kind)
{
    const int *type = dlsym(RTLD_DEFAULT, "MyBackendType");
    get_backend_type_desc_fn *describe;
    const char *description;

    if (type == NULL || !tde_libc_find(RTLD_DEFAULT, "GetBackendTypeDesc", &describe))
        return false;
    description = describe(*type);
    return description != NULL && strcmp(description, kind) == 0;
}

bool tde_policy_process_has_set(const char *name)
{
    const bool *variable = dlsym(RTLD_DEFAULT, name);

    return variable != NULL && *variable;
}

bool tde_policy_process_is_postmaster(void)
{
    return tde_policy_process_has_set("IsPostmasterEnvironment") &&
           !tde_policy_process_has_set("IsUnderPostmaster");
}

bool tde_policy_process_runs_sql(void)
{
    static const char *const kinds[] = {
        "client backend",    "walsender",          "background worker", "autovacuum worker",
        "standalone backend", "autovacuum launcher", "slotsync worker",
    };

    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (tde_policy_process_is(kinds[i]))
            return true;
    return false;
}

const char *tde_policy_process_setting(const char *name)
{
    get_config_option_fn *get_config_option;

    if (!tde_libc_find(RTLD_DEFAULT, "GetConfigOption", &get_config_option))
        return NULL;
    return get_config_option(name, true, false);
}

/* Until PostgreSQL knows it, and where it is single-user, it works in it. */
const char *tde_policy_process_data_directory(void)
{
    const char *const *directory = dlsym(RTLD_DEFAULT, "DataDir");

    return directory == NULL || *directory == NULL ? "." : *directory;
}
