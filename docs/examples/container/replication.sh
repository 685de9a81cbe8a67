#!/bin/sh
# Runs once in the primary's container, when its cluster is new: let the standby connect.
set -eu
password=$(cat /run/secrets/replication) # By itself, so that a file that cannot be read ends this.
psql --username "${POSTGRES_USER:-postgres}" --set password="$password" <<'SQL'
CREATE ROLE repli LOGIN REPLICATION PASSWORD :'password';
SQL
echo "host replication repli all scram-sha-256" >>"$PGDATA/pg_hba.conf"
