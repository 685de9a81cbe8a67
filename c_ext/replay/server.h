/*
 * replay/server.h - symbols of PostgreSQL's server, which extensions and the interposer use.
 */
#ifndef TDE_REPLAY_SERVER_H
#define TDE_REPLAY_SERVER_H

#include <stdbool.h>

#define TDE_REPLAY_EXPORT __attribute__((visibility("default")))

extern TDE_REPLAY_EXPORT void *MyWalSnd;
extern TDE_REPLAY_EXPORT bool am_db_walsender;
extern TDE_REPLAY_EXPORT const char *debug_query_string;
extern TDE_REPLAY_EXPORT int MyBackendType;

TDE_REPLAY_EXPORT const char *GetBackendTypeDesc(int type);
TDE_REPLAY_EXPORT const char *GetConfigOption(const char *name, bool missing_ok,
                                          bool restrict_privileged);

#endif
