#!/bin/sh
# Put programs that have the keys before PostgreSQL's own in PATH, and go on as the image does.
#
# TDE_KEYSTORE  the keystore, mounted; it opens by itself (tde keystore auto-open enable)
# TDE_PRIMARY   of a standby: how to connect to its primary, for example "host=primary user=repli"
set -eu

: "${TDE_KEYSTORE:=/run/keystore}"
: "${PGDATA:=/var/lib/postgresql/data}"
programs=/run/tde/bin

# As the server's user, who may read the keystore, whoever the container was started as.
as_server() {
    if [ "$(id -u)" = 0 ]; then
        gosu postgres "$@"
    else
        "$@"
    fi
}

as_server tde pg install-bin "$programs" --keystore "$TDE_KEYSTORE"
export PATH="$programs:$PATH"

if [ -n "${TDE_PRIMARY:-}" ] && [ ! -s "$PGDATA/PG_VERSION" ]; then
    if [ "$(id -u)" = 0 ]; then
        install -d -o postgres -g postgres -m 700 "$PGDATA"
    fi
    # Until the primary answers: both containers start at once.
    until as_server pg_isready --quiet --dbname="$TDE_PRIMARY"; do sleep 1; done
    as_server pg_basebackup --dbname="$TDE_PRIMARY" --pgdata="$PGDATA" --write-recovery-conf
fi

exec docker-entrypoint.sh "$@"
