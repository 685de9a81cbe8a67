/*
 * extension/views.c - what the views tde_tablespaces and tde_activity are made of.
 */
#include <postgres.h>

#include <access/htup_details.h>
#include <catalog/pg_tablespace_d.h>
#include <fmgr.h>
#include <funcapi.h>
#include <utils/builtins.h>
#include <utils/tuplestore.h>

#include "extension/compat.h"
#include "extension/interposer.h"
#include "extension/messages.h"

PG_FUNCTION_INFO_V1(tde_tablespace_state);
PG_FUNCTION_INFO_V1(tde_classes);

#define STATE_COLUMNS 6
#define CLASS_COLUMNS 3

static const char *key_file(Oid oid, const struct tde_io_tablespace *tablespace)
{
    char hex[2 * TDE_IO_KEY_ID_SIZE + 1];

    switch (tablespace->key_file) {
    case TDE_IO_OTHER_KEY:
        return "other.key";
    case TDE_IO_KEY_OF_OID:
        return psprintf("%u.key", oid);
    default:
        hex_encode((const char *)tablespace->key_id, TDE_IO_KEY_ID_SIZE, hex);
        hex[sizeof hex - 1] = '\0';
        return psprintf("%s.key", hex);
    }
}

static const char *withheld(enum tde_io_withheld why)
{
    switch (why) {
    case TDE_IO_CLOSED:
        return "keystore closed";
    case TDE_IO_LOCKED:
        return "locked";
    default:
        return NULL;
    }
}

/* A row for one tablespace: encrypted, algorithm, key file, why withheld, bytes written and read. */
Datum tde_tablespace_state(PG_FUNCTION_ARGS)
{
    Oid oid = PG_GETARG_OID(0);
    const struct tde_io_status *status = tde_extension_interposer();
    struct tde_io_tablespace tablespace;
    Datum values[STATE_COLUMNS] = {0};
    bool nulls[STATE_COLUMNS];
    const char *why;
    TupleDesc shape;

    if (get_call_result_type(fcinfo, NULL, &shape) != TYPEFUNC_COMPOSITE)
        elog(ERROR, "return type must be a row type");
    memset(nulls, true, sizeof nulls);
    if (status == NULL) {
        values[0] = BoolGetDatum(false);
        nulls[0] = false;
    } else if (status->tablespace(oid, &tablespace)) {
        values[0] = BoolGetDatum(tablespace.bits != 0);
        values[2] = CStringGetTextDatum(key_file(oid, &tablespace));
        values[4] = Int64GetDatum((int64)tablespace.bytes.encrypted);
        values[5] = Int64GetDatum((int64)tablespace.bytes.decrypted);
        memset(nulls, false, sizeof nulls);
        nulls[1] = tablespace.bits == 0;
        if (!nulls[1])
            values[1] = CStringGetTextDatum(psprintf("AES-%u-XTS", tablespace.bits));
        why = withheld(status->withheld(oid));
        nulls[3] = why == NULL;
        if (why != NULL)
            values[3] = CStringGetTextDatum(why);
    }
    PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(shape), values, nulls)));
}

static void put_class(ReturnSetInfo *result, const char *name, struct tde_io_bytes bytes)
{
    Datum values[CLASS_COLUMNS] = {CStringGetTextDatum(name), Int64GetDatum((int64)bytes.encrypted),
                                   Int64GetDatum((int64)bytes.decrypted)};
    bool nulls[CLASS_COLUMNS] = {false};

    tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/* A row for each class of files that are not in a tablespace's own count. */
Datum tde_classes(PG_FUNCTION_ARGS)
{
    const struct tde_io_status *status = tde_extension_interposer();
    ReturnSetInfo *result = (ReturnSetInfo *)fcinfo->resultinfo;
    struct tde_io_activity activity;

    InitMaterializedSRF(fcinfo, 0);
    if (status != NULL) {
        status->activity(&activity);
        put_class(result, "wal", activity.wal);
        put_class(result, "temporary", activity.temporary);
    }
    return (Datum)0;
}
