/*
 * replay/server.c - what the interposer looks for in a server: a session without a walsender,
 * a command or settings.
 */
#include <stdbool.h>
#include <stddef.h>

#include "replay/server.h"

void *MyWalSnd = NULL;
bool am_db_walsender = false;
const char *debug_query_string = NULL;
int MyBackendType = 0;

const char *GetBackendTypeDesc(int type)
{
    (void)type;
    return "client backend";
}

const char *GetConfigOption(const char *name, bool missing_ok, bool restrict_privileged)
{
    (void)name;
    (void)missing_ok;
    (void)restrict_privileged;
    return NULL;
}
