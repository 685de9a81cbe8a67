#!/bin/bash
# What a DBA does with the package, in a clean Debian: as root, in a chroot without a service manager.
# It ends with the first command that does not do what it should; its output is the transcript.
set -euxo pipefail
export LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive
keystore=/var/lib/postgresql/keystore

as_postgres() { su postgres -c "psql --cluster $major/main -XAtqc \"$1\""; }

# `set -e` does not stop at a command behind an exclamation mark.
fails() { if "$@"; then return 1; fi; }

# Debian's own server, and no cluster yet.
apt-get update -q
mkdir -p /etc/postgresql-common/createcluster.d
echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.d/none.conf
apt-get install -qy --no-install-recommends postgresql bash-completion man-db >/dev/null
major=$(ls /usr/lib/postgresql)
data=/var/lib/postgresql/$major/main

# Nothing but the package: what it needs comes with it, or from Debian.
apt-get install -qy --no-install-recommends /tmp/tde.deb >/dev/null
tde --version
test "$(readlink -f /usr/bin/tde)" = /usr/lib/tde/bin/tde
man --where tde-pg-register
man tde-pg-start >/tmp/page
grep -- '--pgdata' /tmp/page
bash -c 'source /usr/share/bash-completion/bash_completion; __load_completion tde; complete -p tde'
test -s /usr/share/doc/tde/examples/postgresql@15-main.service.d/tde.conf
# The page cipher and the server's library use the system's libcrypto, so does libpq.
for library in /usr/lib/tde/lib/python3*/site-packages/{tde/libtde_io.so,tde/tde_program,tde/_core.*.so}; do
    ldd "$library" | grep 'libcrypto.so.3 => /lib'
done
ldd /usr/lib/tde/lib/python3*/site-packages/psycopg2/_psycopg*.so | grep 'libpq.so.5 => /lib'
# Neither PYTHONPATH nor the current directory is a way into a command of root's.
mkdir /tmp/evil
echo 'open("/tmp/evil/taken", "w")' | tee /tmp/evil/typer.py >/tmp/evil/sitecustomize.py
(cd /tmp/evil && PYTHONPATH=/tmp/evil tde --version)
test ! -e /tmp/evil/taken

# A cluster of Debian's, encrypted after use, and started by Debian's own program.
pg_createcluster $major main -- -k
pg_ctlcluster $major main start
as_postgres "CREATE TABLE t AS SELECT 'canary-of-the-package'::text AS a"
pg_ctlcluster $major main stop
install -m 600 /dev/null /root/passphrase
echo 'a passphrase of seven or more words' >/root/passphrase
tde keystore create --keystore $keystore --passphrase-file /root/passphrase
tde pg encrypt -D $data --keystore $keystore --passphrase-file /root/passphrase
tde keystore auto-open enable --keystore $keystore --passphrase-file /root/passphrase
tde pg register $major/main
pg_ctlcluster $major main start
test "$(as_postgres 'SELECT a FROM t')" = canary-of-the-package
as_postgres "INSERT INTO t VALUES ('canary-of-the-package again'); CHECKPOINT"
pg_lsclusters
tde pg status -D $data
pg_ctlcluster $major main stop
tde pg audit -D $data
fails grep -rqs canary-of-the-package $data
# A report needs what the extra brings, and as PDF the libraries that the package recommends.
apt-get install -qy --no-install-recommends libpango-1.0-0 libpangoft2-1.0-0 libharfbuzz-subset0 \
    fonts-dejavu-core >/dev/null
tde report make -D $data --passphrase-file /root/passphrase -o /root/report.pdf
test "$(head -c 5 /root/report.pdf)" = %PDF-
tde pg unit $major/main | diff - /usr/share/doc/tde/examples/postgresql@15-main.service.d/tde.conf

# An upgrade brings the copies of its programs up to date, and keeps what they are for.
stand_in=/var/lib/tde/bin/$major-main
settings=$(cat $stand_in/tde-bin.conf)
echo old >$stand_in/postgres
echo old >$stand_in/libtde_io.so
apt-get install -qy --reinstall /tmp/tde.deb | grep "$stand_in is up to date"
cmp $stand_in/postgres /usr/lib/tde/lib/python3*/site-packages/tde/tde_program
cmp $stand_in/libtde_io.so /usr/lib/tde/lib/python3*/site-packages/tde/libtde_io.so
test "$settings" = "$(cat $stand_in/tde-bin.conf)"
pg_ctlcluster $major main start
test "$(as_postgres 'SELECT count(*) FROM t')" = 2
# All of the version, too, so that removal has both to take back.
tde pg register $major --keystore $keystore
pg_ctlcluster $major main restart
test "$(as_postgres 'SELECT count(*) FROM t')" = 2
# A cluster that was dropped leaves its programs, which the next upgrade removes.
pg_createcluster $major dropped >/dev/null
tde pg register $major/dropped
pg_dropcluster $major dropped
test -e /var/lib/tde/bin/$major-dropped
apt-get install -qy --reinstall /tmp/tde.deb | grep "$major/dropped was dropped"
test ! -e /var/lib/tde/bin/$major-dropped

# Removal says what no longer starts, gives PostgreSQL its programs back, and keeps data and
# keystore. A server that runs goes on until it is stopped, and what it writes is ciphertext.
before=$(sha256sum $keystore/keystore.json)
apt-get purge -qy tde 2>&1 | tee /tmp/purged
grep "neither pg_ctlcluster nor systemd starts them: $major/main" /tmp/purged
grep 'decrypt each with its server stopped' /tmp/purged
fails grep 'tde pg register' /tmp/purged
grep 'Encrypted clusters and keystores are still there' /tmp/purged
test ! -e /usr/lib/tde
test ! -e /var/lib/tde
test ! -e /usr/bin/tde
test -z "$(dpkg-divert --list | grep "postgresql/$major/")"
test "$before" = "$(sha256sum $keystore/keystore.json)"
as_postgres "INSERT INTO t VALUES ('canary-of-the-package at last'); CHECKPOINT"
pg_ctlcluster $major main stop
fails grep -rqs canary-of-the-package $data
pg_createcluster $major plain
pg_ctlcluster $major plain start
pg_ctlcluster $major plain stop
fails pg_ctlcluster $major main start 2>/tmp/refused
grep tde-start-this-cluster-with-tde /tmp/refused

# And back.
apt-get install -qy --no-install-recommends /tmp/tde.deb >/dev/null
tde pg register $major/main
pg_ctlcluster $major main start
test "$(as_postgres 'SELECT count(*) FROM t')" = 3
pg_ctlcluster $major main stop
echo ALL DONE
