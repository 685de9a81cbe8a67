"""Tablespaces that are locked, and a keystore that is closed, while the server runs."""

from __future__ import annotations

import fcntl
import json
import os
import sys
import threading
from pathlib import Path

import psycopg2
import pytest

from tde.algorithms import Algorithm
from tde.postgres import audit, create_tablespace
from tde.postgres.cluster.wal_rotation import rotate_wal_key
from tde.postgres.cluster.withholding import (
    close_for_sessions,
    lock_tablespace,
    open_for_sessions,
    unlock_tablespace,
)
from tde.postgres.server.published import read_published_status
from tests.conftest import RunningCluster
from tests.postgres.cluster_copies import base_backup, open_copy
from tests.postgres.crashes.file_rewrites import kill_server
from tests.replication.test_keys_on_standbys import wait_for, wait_until_replayed

SECRET = ("--passphrase-fd", "0")
LOCAL = "-c listen_addresses="
CLOSED = (
    "could not encrypt or decrypt data because the keystore is not open; HINT: Open the existing "
    "keystore, or set the master encryption key to create and open a new keystore"
)
SMALL = {"shared_buffers": "1MB", "checkpoint_timeout": "1h", "bgwriter_lru_maxpages": "0"}


@pytest.fixture
def made_by_each(binaries, encrypted_cluster_factory, os_user_tmp_path) -> RunningCluster:
    return make(encrypted_cluster_factory, binaries, os_user_tmp_path / "space")


@pytest.fixture
def made(binaries_older_slow, encrypted_cluster_factory, os_user_tmp_path) -> RunningCluster:
    return make(encrypted_cluster_factory, binaries_older_slow, os_user_tmp_path / "space")


def make(factory, binaries, location: Path) -> RunningCluster:
    made: RunningCluster = factory(binaries, options=SMALL)
    create_tablespace(made.cluster, made.keystore, "secret", location, Algorithm.AES256)
    made.query("CREATE TABLE hidden (n int PRIMARY KEY USING INDEX TABLESPACE secret, x text) "
               "TABLESPACE secret")  # fmt: skip
    made.query("INSERT INTO hidden SELECT g, repeat('h', 500) FROM generate_series(1, 2000) g")
    made.query("CREATE TABLE open AS SELECT g AS n, repeat('o', 500) AS x "
               "FROM generate_series(1, 2000) g")  # fmt: skip
    return made


def oid_of(made: RunningCluster) -> int:
    return int(made.query("SELECT oid FROM pg_tablespace WHERE spcname = 'secret'")[0][0])


def refused(made: RunningCluster, *statements: str) -> None:
    for statement in statements:
        with pytest.raises(psycopg2.Error, match="Required key not available"):
            made.query(statement)


READS = (
    "SELECT count(*) FROM hidden",
    "SELECT x FROM hidden WHERE n = 7",
    "INSERT INTO hidden VALUES (0, 'x')",
    "UPDATE hidden SET x = 'y' WHERE n = 5",
    "CREATE TABLE more TABLESPACE secret AS SELECT 1 AS n",
    "VACUUM hidden",
)


def test_a_locked_tablespace_is_refused_to_every_session(made, tde_command):
    # A session that has the table open, and pages of it in memory, is refused as well.
    connection = psycopg2.connect(**made.cluster.connection_parameters("postgres"))
    connection.autocommit = True
    cursor = connection.cursor()
    cursor.execute("SELECT count(*) FROM hidden WHERE n < 3")

    said = tde_command("tablespace", "lock", "secret", "-D", made.data_directory, *SECRET)
    assert said.stdout == "Tablespace secret is locked\n"
    assert "pg_terminate_backend" in said.stderr
    refused(made, *READS)
    with pytest.raises(psycopg2.Error, match="Required key not available"):
        cursor.execute("SELECT count(*) FROM hidden WHERE n < 3")
    oid = oid_of(made)
    assert f"because tablespace {oid} is locked" in made.cluster.default_log.read_text()
    assert made.query("SELECT count(*) FROM open") == [(2000,)]
    status = json.loads(tde_command("pg", "status", "-D", made.data_directory, "--json").stdout)
    assert (status["closed"], status["locked"]) == (False, [oid])
    assert "locked" in tde_command("pg", "status", "-D", made.data_directory).stdout

    tde_command("tablespace", "unlock", oid, "-D", made.data_directory, *SECRET)
    cursor.execute("SELECT count(*) FROM hidden")
    assert cursor.fetchone() == (2000,)
    connection.close()
    log = tde_command("keystore", "log", "-k", made.keystore.path, "--verify", *SECRET).stdout
    assert "unlock tablespace" in log


def test_nothing_else_fails_while_tablespaces_are_locked(made_by_each):
    """Whoever needs room in memory has to write pages of the locked table."""
    made = made_by_each
    failed: list[Exception] = []
    done = threading.Event()

    def work(own: int) -> None:
        connection = psycopg2.connect(**made.cluster.connection_parameters("postgres"))
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:
                while not done.is_set():
                    cursor.execute("UPDATE open SET x = x WHERE n %% 2 = %s", (own,))
        except psycopg2.Error as error:
            failed.append(error)
        connection.close()

    made.query("CHECKPOINT")
    made.query("UPDATE hidden SET x = repeat('i', 500)")  # All of it in memory, as far as it fits.
    oid = oid_of(made)
    lock_tablespace(made.cluster, made.keystore, oid)
    # Each has rows of its own, or they would lock each other out.
    workers = [threading.Thread(target=work, args=(own,)) for own in range(2)]
    for worker in workers:
        worker.start()
    try:
        for _ in range(5):
            made.query("CHECKPOINT")
            unlock_tablespace(made.cluster, made.keystore, oid)
            made.query("UPDATE hidden SET x = repeat('j', 500) WHERE n % 3 = 0")
            lock_tablespace(made.cluster, made.keystore, oid)
            made.query("SELECT pg_sleep(0.3)")
    finally:
        done.set()
        for worker in workers:
            worker.join()
    assert failed == []
    # What does not read works, and ends in no PANIC.
    made.query("DROP TABLE hidden")
    with pytest.raises(psycopg2.Error):
        made.query("DO $$ BEGIN CREATE TABLE again (n int) TABLESPACE secret; "
                   "INSERT INTO again VALUES (1); END $$")  # fmt: skip
    made.query("CHECKPOINT")
    assert "PANIC" not in made.cluster.default_log.read_text()
    assert audit(made.cluster, made.keystore).clean


def test_a_server_starts_closed_and_recovers(made, tde_command):
    kill_server(made.cluster.pid)
    tde_command("pg", "start", "-D", made.data_directory, "--closed", "-o", LOCAL, *SECRET)
    log = made.cluster.default_log
    assert "redo done" in log.read_text()  # Of the table that nobody may read yet, too.
    assert made.query("SELECT count(*) FROM open") == [(2000,)]
    refused(made, *READS)
    assert CLOSED in log.read_text()
    shown = tde_command("pg", "status", "-D", made.data_directory).stdout
    assert "closed for sessions" in shown
    opened = tde_command("keystore", "open", "-D", made.data_directory, *SECRET).stdout
    assert opened == f"The keystore of the server with process id {made.cluster.pid} is open\n"
    assert made.query("SELECT count(*), sum(n) FROM hidden") == [(2000, 2001000)]
    tde_command("keystore", "close", "-D", made.data_directory, *SECRET)
    refused(made, "SELECT count(*) FROM hidden")
    made.cluster.stop()
    tde_command("pg", "start", "-D", made.data_directory, "-o", LOCAL, *SECRET)
    assert made.query("SELECT count(*) FROM hidden") == [(2000,)]


def test_what_cannot_be_locked_is_refused(made, tde_command):
    tde = ("-D", made.data_directory, *SECRET)
    failed = tde_command("tablespace", "lock", "pg_default", *tde, exit_code=1)
    assert "has the catalogs that every session needs" in failed.stderr
    failed = tde_command("tablespace", "lock", "nowhere", *tde, exit_code=1)
    assert "there is no tablespace nowhere" in failed.stderr
    oid = oid_of(made)
    made.query("CREATE DATABASE inside TABLESPACE secret")
    failed = tde_command("tablespace", "lock", oid, *tde, exit_code=1)
    assert "it has the catalogs of database inside" in failed.stderr
    made.cluster.stop()
    for verb in ("open", "close"):
        failed = tde_command("keystore", verb, *tde, exit_code=3)
        assert "no server is running" in failed.stderr


def test_a_standby_replays_what_its_sessions_may_not_read(
    binaries_older_slow, encrypted_cluster_factory, os_user_tmp_path
):
    options = {"allow_in_place_tablespaces": "on"}
    primary: RunningCluster = encrypted_cluster_factory(binaries_older_slow, options=options)
    directory = os_user_tmp_path / "standby"
    base_backup(primary, directory, "--write-recovery-conf", "--wal-method=stream")
    standby = open_copy(encrypted_cluster_factory, primary, directory, primary.keystore)
    standby.start(options)
    primary.query("CREATE TABLESPACE secret LOCATION ''")
    primary.query("CREATE TABLE hidden TABLESPACE secret AS SELECT generate_series(1, 100) AS n")
    wait_until_replayed(primary, standby)
    close_for_sessions(standby.cluster, standby.keystore)
    primary.query("INSERT INTO hidden SELECT generate_series(101, 5000)")
    wait_until_replayed(primary, standby)
    refused(standby, "SELECT count(*) FROM hidden")
    assert primary.query("SELECT count(*) FROM hidden") == [(5000,)]
    standby.query("SELECT pg_promote()")
    wait_for(lambda: standby.query("SELECT pg_is_in_recovery()") == [(False,)])
    open_for_sessions(standby.cluster, standby.keystore)
    assert standby.query("SELECT count(*) FROM hidden") == [(5000,)]


def test_many_tablespaces_are_locked_one_by_one(made):
    """More tablespaces than are published can be locked, and each unlocked for itself."""
    for number in range(70, 140):
        lock_tablespace(made.cluster, made.keystore, 1000000 + number)
    oid = oid_of(made)
    lock_tablespace(made.cluster, made.keystore, oid)
    refused(made, "SELECT count(*) FROM hidden")
    unlock_tablespace(made.cluster, made.keystore, 1000070)
    refused(made, "SELECT count(*) FROM hidden")
    unlock_tablespace(made.cluster, made.keystore, oid)
    assert made.query("SELECT count(*) FROM hidden") == [(2000,)]


def test_two_who_tell_a_server_something_wait_for_each_other(made):
    """A server has one place for a message: the second one would replace the first."""
    oid = oid_of(made)
    problems: list[object] = []

    def rotate() -> None:
        try:
            for _ in range(8):
                wanted = rotate_wal_key(made.cluster, made.keystore, Algorithm.AES256).owner.key_id
                keys = read_published_status(made.cluster.pid).keys
                if wanted.bytes != keys.wal_key:
                    problems.append("the server writes with another key")
        except Exception as error:
            problems.append(error)

    rotations = threading.Thread(target=rotate)
    rotations.start()
    for _ in range(20):
        lock_tablespace(made.cluster, made.keystore, oid)
        assert read_published_status(made.cluster.pid).keys.locked == (oid,)
        unlock_tablespace(made.cluster, made.keystore, oid)
        assert read_published_status(made.cluster.pid).keys.locked == ()
    rotations.join()
    assert problems == []


def test_a_cursor_reads_no_page_from_the_disk_any_more(made_by_each):
    """From PostgreSQL 18 on other processes read the pages for a session."""
    made = made_by_each
    made.query("INSERT INTO hidden SELECT g, repeat('z', 500) FROM generate_series(2001, 20000) g")
    connection = psycopg2.connect(**made.cluster.connection_parameters("postgres"))
    with connection.cursor() as cursor:
        cursor.execute("DECLARE c CURSOR FOR SELECT x FROM hidden")
        cursor.execute("FETCH 1 FROM c")
        lock_tablespace(made.cluster, made.keystore, oid_of(made))
        with pytest.raises(psycopg2.Error, match="Required key not available"):
            cursor.execute("FETCH ALL FROM c")
    connection.close()


def test_an_old_message_is_not_looked_at_again(made):
    """The attack: a program of the server's user keeps an unlock, and counts the number back."""
    oid = oid_of(made)
    lock_tablespace(made.cluster, made.keystore, oid)
    keys = read_published_status(made.cluster.pid).keys
    message = made.keystore.seal_withheld_for(keys.exchange_key, keys.message + 1, oid, give=True)
    unlock_tablespace(made.cluster, made.keystore, oid)
    lock_tablespace(made.cluster, made.keystore, oid)
    status = keys.message_file.with_name(keys.message_file.name.removesuffix(".message"))
    content = bytearray(status.read_bytes())
    number = content.index(made.keystore.master_key_id.bytes) + 16
    assert int.from_bytes(content[number : number + 8], sys.byteorder) == keys.message + 2
    with status.open("r+b") as file:
        file.seek(number)
        file.write(keys.message.to_bytes(8, sys.byteorder))
    with keys.message_file.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)  # Or a server that starts beside this one removes it.
        file.write(message)
        file.flush()
        owner = made.data_directory.stat()
        os.chown(file.fileno(), owner.st_uid, owner.st_gid)
        made.query("SELECT pg_reload_conf()")
        made.query("SELECT pg_sleep(0.5)")
        keys.message_file.unlink()
    refused(made, "SELECT count(*) FROM hidden")
