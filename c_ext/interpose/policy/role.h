/*
 * policy/role.h - which PostgreSQL program this process is, and what it may see.
 */
#ifndef TDE_INTERPOSE_POLICY_ROLE_H
#define TDE_INTERPOSE_POLICY_ROLE_H

#include <stdbool.h>

#include "format/identity.h"

enum tde_role {
    TDE_ROLE_NONE,        /* initdb, sh, …: nothing is touched, the environment is kept */
    TDE_ROLE_STATE,       /* pg_ctl, pg_controldata, …: as NONE, but sees the state in pg_control */
    TDE_ROLE_COMBINE,     /* pg_combinebackup: as NONE, but the key maps are compared first */
    TDE_ROLE_SERVER,      /* postgres and its children: everything is decrypted and encrypted */
    TDE_ROLE_WAL_RECEIVER, /* pg_basebackup, pg_receivewal: WAL comes in plain, relations raw */
    TDE_ROLE_REWIND,      /* pg_rewind: parses the target's WAL, copies everything else raw */
    TDE_ROLE_TOOL,        /* pg_waldump, pg_checksums, …: read and write as the server does */
};

enum tde_access {
    TDE_ACCESS_RAW,        /* the bytes of the file as they are */
    TDE_ACCESS_CONTROL,    /* pg_control with its true state (control/control.h) */
    TDE_ACCESS_ENCRYPTED,  /* through the cipher */
    TDE_ACCESS_COMPRESSED, /* a WAL segment, encrypted before its compressor gets it
                              (walfiles/compress.h) */
    TDE_ACCESS_TAR,        /* the WAL segments in it through the cipher (walfiles/tar.h) */
    TDE_ACCESS_REFUSED,    /* would put plaintext on disk */
    TDE_ACCESS_FOREIGN,    /* would be encrypted with the keys of another keystore */
};

/* Find the role of the running program; called once, before any wrapper needs it. */
void tde_policy_detect_role(void);
enum tde_role tde_policy_role(void);

/* Whether this is pg_basebackup, which is sent WAL on the second of its connections only. */
bool tde_policy_takes_backup(void);

/* Whether this program reads or writes with keys; others only pass them on. */
bool tde_policy_uses_keys(void);

/* What opening PATH, of class FILE_CLASS, with open(2) FLAGS means in this process now. */
enum tde_access tde_policy_access(enum tde_file_class file_class, const char *path, int flags);

#endif
