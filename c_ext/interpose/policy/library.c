/*
 * policy/library.c - see policy/library.h.
 */
#include "interpose/policy/library.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "crypto/library.h"
#include "interpose/libc/report.h"

/* The path beside this library; false when there is nothing, or it cannot be told. */
static bool find_beside(char path[PATH_MAX])
{
    static const char here; /* something of this library */
    Dl_info self;
    const char *slash;
    int length;

    if (dladdr(&here, &self) == 0 || self.dli_fname == NULL || self.dli_fname[0] != '/')
        return false;
    slash = strrchr(self.dli_fname, '/');
    length = snprintf(path, PATH_MAX, "%.*s/" TDE_LIBCRYPTO_NAME, (int)(slash - self.dli_fname),
                      self.dli_fname);
    return length > 0 && length < PATH_MAX && access(path, R_OK) == 0;
}

void tde_policy_library_choose(void)
{
    const char *wanted = getenv(TDE_LIBCRYPTO_VARIABLE);
    char path[PATH_MAX];
    const char *problem;

    if (wanted != NULL && strcmp(wanted, "system") == 0)
        return;
    if (wanted != NULL && *wanted != '\0') {
        if (snprintf(path, sizeof path, "%s", wanted) >= (int)sizeof path)
            return;
        /* What the server starts is another program, perhaps years after this file is gone. */
        unsetenv(TDE_LIBCRYPTO_VARIABLE);
    } else if (!tde_crypto_library_would_gain() || !find_beside(path)) {
        return;
    }
    problem = tde_crypto_library_choose(path);
    if (problem != NULL)
        tde_libc_report("WARNING: the library %s cannot encrypt pages: %s; %s does, more slowly",
                        path, problem, tde_crypto_library()->version(OPENSSL_VERSION));
}
