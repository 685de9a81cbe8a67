/*
 * policy/process.c - see policy/process.h.
 */
#include "interpose/policy/process.h"

#include <dlfcn.h>
#include <stddef.h>
#include <string.h>

typedef const char *get_config_option_fn(const char *name, bool missing_ok,
                                         bool restrict_privileged);
typedef const char *get_backend_type_desc_fn(int type);

/* The numbers of the types change between releases; the words do not. */
bool tde_policy_process_is(const char *kind)
{
    const int *type = dlsym(RTLD_DEFAULT, "MyBackendType");
    void *symbol = dlsym(RTLD_DEFAULT, "GetBackendTypeDesc");
    get_backend_type_desc_fn *describe;
    const char *description;

    if (type == NULL || symbol == NULL)
        return false;
    /* ISO C has no cast from an object pointer to a function pointer. */
    memcpy(&describe, &symbol, sizeof describe);
    description = describe(*type);
    return description != NULL && strcmp(description, kind) == 0;
}

bool tde_policy_process_is_postmaster(void)
{
    const bool *has_postmaster = dlsym(RTLD_DEFAULT, "IsPostmasterEnvironment");
    const bool *is_child = dlsym(RTLD_DEFAULT, "IsUnderPostmaster");

    return has_postmaster != NULL && is_child != NULL && *has_postmaster && !*is_child;
}

const char *tde_policy_process_setting(const char *name)
{
    void *symbol = dlsym(RTLD_DEFAULT, "GetConfigOption");
    get_config_option_fn *get_config_option;

    if (symbol == NULL)
        return NULL;
    memcpy(&get_config_option, &symbol, sizeof get_config_option);
    return get_config_option(name, true, false);
}

/* Until PostgreSQL knows it, and where it is single-user, it works in it. */
const char *tde_policy_process_data_directory(void)
{
    const char *const *directory = dlsym(RTLD_DEFAULT, "DataDir");

    return directory == NULL || *directory == NULL ? "." : *directory;
}
