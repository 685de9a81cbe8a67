/*
 * extension/rights.c - see extension/rights.h.
 */
#include <postgres.h>

#include <miscadmin.h>
#include <utils/acl.h>

#include "extension/messages.h"
#include "extension/rights.h"

void tde_extension_require_rights(void)
{
    Oid role = get_role_oid(TDE_EXTENSION_ROLE, true);

    if (superuser() || (OidIsValid(role) && has_privs_of_role(GetUserId(), role)))
        return;
    ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
                    errmsg("permission denied for the keystore"),
                    errhint("It takes a superuser, or a member of the role " TDE_EXTENSION_ROLE
                            ".")));
}
