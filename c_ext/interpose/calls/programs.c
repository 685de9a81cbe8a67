/*
 * calls/programs.c - programs that a program starts through a shell.
 */
#include <stdio.h>
#include <stdlib.h>

#include "interpose/libc/symbols.h"
#include "interpose/policy/handover.h"

TDE_EXPORT int system(const char *command)
{
    bool lent = tde_policy_handover_lend(command);
    int result = tde_libc()->system(command);

    if (lent)
        tde_policy_handover_take_back();
    return result;
}

/* The program has started, with its own copies, when popen returns. */
TDE_EXPORT FILE *popen(const char *command, const char *type)
{
    bool lent = tde_policy_handover_lend(command);
    FILE *result = tde_libc()->popen(command, type);

    if (lent)
        tde_policy_handover_take_back();
    return result;
}
