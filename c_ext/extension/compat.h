/*
 * extension/compat.h - what differs between versions of PostgreSQL; nothing else of the extension
 * asks for a version.  Included after <postgres.h>.
 */
#ifndef TDE_EXTENSION_COMPAT_H
#define TDE_EXTENSION_COMPAT_H

#include <funcapi.h>
#include <parser/analyze.h>
#include <utils/acl.h>

#if PG_VERSION_NUM < 150000
#error "tde is for PostgreSQL 15 and later"
#endif

/* The first minor releases of 15 had it under another name. */
#ifndef MAT_SRF_USE_EXPECTED_DESC
#define InitMaterializedSRF SetSingleFuncCall
#endif

/* From 19 on the state of the jumbling may not be written to. */
#if PG_VERSION_NUM >= 190000
typedef const JumbleState tde_extension_jumble;
#else
typedef JumbleState tde_extension_jumble;
#endif

#endif
