/*
 * format/constants.h - the numbers of PostgreSQL and of the format that identities are made of.
 */
#ifndef TDE_FORMAT_CONSTANTS_H
#define TDE_FORMAT_CONSTANTS_H

#define TDE_FORMAT_VERSION 1u
#define TDE_BLOCKS_PER_SEGMENT 131072u /* RELSEG_SIZE: a relation segment file is 1 GiB */

#define TDE_DEFAULT_TABLESPACE 1663u
#define TDE_GLOBAL_TABLESPACE 1664u

#endif
