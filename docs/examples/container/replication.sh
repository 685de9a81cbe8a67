#!/bin/sh
# Runs once in the primary's container, when its cluster is new: let the standby connect.
set -eu
psql --username "${POSTGRES_USER:-postgres}" --set password="$(cat /run/secrets/replication)" <<'SQL'
CREATE ROLE repli LOGIN REPLICATION PASSWORD :'password';
SQL
echo "host replication repli all scram-sha-256" >>"$PGDATA/pg_hba.conf"
