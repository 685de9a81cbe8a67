/*
 * server_symbols.h - what the interposer looks for in a server, in a program that plays one: a
 * session without a walsender, a command or settings.  One source of the program includes it.
 */
#ifndef TDE_TESTS_SERVER_SYMBOLS_H
#define TDE_TESTS_SERVER_SYMBOLS_H

#include <stddef.h>
#include <stdlib.h>

void *MyWalSnd = NULL;
_Bool am_db_walsender = 0;
const char *debug_query_string = NULL;

int MyBackendType = 0;

/* Which process of a server the program plays. */
const char *GetBackendTypeDesc(int type);
const char *GetBackendTypeDesc(int type)
{
    const char *played = getenv("PLAYED_PROCESS");

    (void)type;
    return played != NULL ? played : "client backend";
}

const char *GetConfigOption(const char *name, int missing_ok, int restrict_privileged);
const char *GetConfigOption(const char *name, int missing_ok, int restrict_privileged)
{
    (void)name;
    (void)missing_ok;
    (void)restrict_privileged;
    return NULL;
}

#endif
