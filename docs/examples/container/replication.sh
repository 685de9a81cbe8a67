#!/bin/sh
# Runs once in the primary's container, when its cluster is new: let the standby connect.
set -eu
test -r /run/secrets/replication # Else the password would be empty.
# psql reads the password itself: the arguments of a program are for everybody to see.
psql --username "${POSTGRES_USER:-postgres}" --set ON_ERROR_STOP=1 <<'SQL'
\set password `cat /run/secrets/replication`
CREATE ROLE repli LOGIN REPLICATION PASSWORD :'password';
SQL
echo "host replication repli all scram-sha-256" >>"$PGDATA/pg_hba.conf"
