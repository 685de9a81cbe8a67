/*
 * extension/interposer.c - see extension/interposer.h.
 */
#include <postgres.h>

#include <dlfcn.h>

#include "extension/interposer.h"
#include "extension/messages.h"

typedef const struct tde_io_status *(*status_function)(void);

const struct tde_io_status *tde_extension_interposer(void)
{
    static status_function function;

    if (function == NULL)
        *(void **)&function = dlsym(RTLD_DEFAULT, TDE_IO_STATUS_FUNCTION);
    return function == NULL ? NULL : function();
}

const struct tde_io_status *tde_extension_require_interposer(void)
{
    const struct tde_io_status *status = tde_extension_interposer();

    if (status == NULL)
        ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                        errmsg("this server runs without keys"),
                        errhint("Start an encrypted cluster with \"tde pg start\".")));
    return status;
}
