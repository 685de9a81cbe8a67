"""WAL is not streamed to programs that would encrypt it with the keys of another cluster."""

from __future__ import annotations

from contextlib import closing

import psycopg2
import pytest
from psycopg2.extras import PhysicalReplicationConnection

from tde.algorithms import Algorithm
from tde.keystore import KeyOwner
from tde.postgres import run_program
from tests.postgres.canaries import CANARY, files_with
from tests.postgres.cluster_copies import make_directory


def run(primary, keystore, program: str, *arguments: str):
    parameters = primary.cluster.connection_parameters()
    return run_program(
        primary.cluster.binaries,
        program,
        [
            *("-h", str(parameters["host"]), "-p", str(parameters["port"])),
            *("-U", str(parameters["user"]), "-w", *arguments),
        ],
        keystore=keystore,
        os_user=primary.cluster.os_user,
        timeout=60,
    )


def foreign_keystore(factory):
    keystore = factory.keystore("foreign-keystore")
    for owner in (KeyOwner.wal(), KeyOwner.tablespace(1663), KeyOwner.tablespace(1664)):
        keystore.create_key(owner, Algorithm.AES256)
    return keystore


def forged_keystore(factory, genuine, monkeypatch):
    """Make a keystore that says it is another: a UUID stands in the clear beside the data."""
    with monkeypatch.context() as patch:
        patch.setattr("tde.keystore.keystore.uuid4", lambda: genuine.uuid)
        keystore = factory.keystore("forged-keystore")
    for owner in (KeyOwner.wal(), KeyOwner.tablespace(1663), KeyOwner.tablespace(1664)):
        keystore.create_key(owner, Algorithm.AES256)
    assert keystore.uuid == genuine.uuid
    return keystore


def logged(primary) -> str:
    return primary.cluster.default_log.read_text()


def assert_named(primary, foreign, lines: str, words: str) -> None:
    (refused,) = {line for line in lines.splitlines() if words in line}
    assert f"keystore {foreign.uuid}" in refused
    assert f"keystore {primary.keystore.uuid}" in refused
    assert "HINT: " in refused


def assert_refused(primary, foreign, made) -> None:
    assert made.returncode != 0
    assert_named(primary, foreign, made.stderr, "refused to encrypt the WAL of this server")


def test_a_base_backup_with_another_keystore_gets_no_wal(
    binaries, encrypted_cluster_factory, os_user_tmp_path
):
    primary = encrypted_cluster_factory(binaries)
    foreign = foreign_keystore(encrypted_cluster_factory)
    target = os_user_tmp_path / "backup"
    options = ("-D", str(target), "--checkpoint=fast", "--no-sync")
    made = run(primary, foreign, "pg_basebackup", *options)
    assert_refused(primary, foreign, made)
    # Without streamed WAL nothing is encrypted by the program, so any keystore does.
    made = run(primary, foreign, "pg_basebackup", *options, "--wal-method=fetch")
    assert made.returncode == 0, made.stderr
    made = run(
        primary, primary.keystore, "pg_basebackup", *options[2:], "-D", f"{target}2", "-X", "stream"
    )
    assert made.returncode == 0, made.stderr


def test_an_archive_with_another_keystore_stays_empty(
    any_binaries, encrypted_cluster_factory, os_user_tmp_path
):
    primary = encrypted_cluster_factory(any_binaries)
    foreign = foreign_keystore(encrypted_cluster_factory)
    archive = make_directory(primary, os_user_tmp_path / "archive")
    primary.query(f"CREATE TABLE t AS SELECT '{CANARY.decode()}' || g FROM generate_series(1, 9) g")
    end = primary.query("SELECT pg_current_wal_insert_lsn()")[0][0]
    options = ("-D", str(archive), "--no-loop", "--endpos", end)
    assert_refused(primary, foreign, run(primary, foreign, "pg_receivewal", *options))
    assert files_with(CANARY, archive) == []
    assert all(not any(file.read_bytes()) for file in archive.iterdir())


def test_a_client_that_does_not_ask_is_refused_by_the_server(
    any_binaries, encrypted_cluster_factory
):
    """Those of earlier releases do not."""
    primary = encrypted_cluster_factory(any_binaries)
    foreign = foreign_keystore(encrypted_cluster_factory)
    segment = primary.query("SELECT pg_walfile_name(pg_current_wal_lsn())")[0][0]
    connection = psycopg2.connect(
        **primary.cluster.connection_parameters(),
        options=f"-c tde.streamed_wal=encrypted -c tde.keystore={foreign.uuid}",
        connection_factory=PhysicalReplicationConnection,
    )
    with closing(connection), connection.cursor() as cursor:
        cursor.start_replication(start_lsn=f"{segment[8:16]}/{segment[-2:]}000000")
        with pytest.raises(psycopg2.Error, match="Required key not available"):
            cursor.consume_stream(print)
    assert_named(primary, foreign, logged(primary), "refused to stream")


def test_wal_of_a_server_without_tde_gets_no_keys(
    binaries, encrypted_cluster_factory, os_user_tmp_path
):
    plain = encrypted_cluster_factory.plain(binaries)
    foreign = foreign_keystore(encrypted_cluster_factory)
    target = os_user_tmp_path / "backup"
    options = ("-D", str(target), "--checkpoint=fast", "--no-sync")
    made = run(plain, foreign, "pg_basebackup", *options)
    assert made.returncode != 0
    assert "the server is not encrypted" in made.stderr
    assert f"keystore {foreign.uuid}" in made.stderr
    assert "HINT: " in made.stderr
    assert not target.exists()
    archive = make_directory(plain, os_user_tmp_path / "archive")
    end = plain.query("SELECT pg_current_wal_insert_lsn()")[0][0]
    arguments = ("-D", str(archive), "--no-loop", "--endpos", end)
    made = run(plain, foreign, "pg_receivewal", *arguments)
    assert made.returncode != 0
    assert "the server is not encrypted" in made.stderr
    assert list(archive.iterdir()) == []
    # A server may not say so by accident: a role's settings come before those of a client.
    plain.query(f"ALTER ROLE ALL SET tde.keystore = '{foreign.uuid}'")
    made = run(plain, foreign, "pg_basebackup", *options)
    assert "the server is not encrypted" in made.stderr
    # What is not streamed is not encrypted by the program.
    made = run(plain, foreign, "pg_basebackup", *options, "--wal-method=fetch")
    assert made.returncode == 0, made.stderr


def test_no_client_changes_what_a_server_says_of_its_keystore(
    any_binaries, encrypted_cluster_factory
):
    primary = encrypted_cluster_factory(any_binaries)
    primary.query("ALTER ROLE ALL SET tde.server_keystore = 'another'")
    assert primary.query("SHOW tde.server_keystore") == [(str(primary.keystore.uuid),)]


def test_a_keystore_that_only_has_the_name_of_the_servers_gets_no_wal(
    any_binaries, encrypted_cluster_factory, os_user_tmp_path, monkeypatch
):
    """The attack: who may write to the volume names a keystore of his own in tde.json."""
    primary = encrypted_cluster_factory(any_binaries)
    forged = forged_keystore(encrypted_cluster_factory, primary.keystore, monkeypatch)
    archive = make_directory(primary, os_user_tmp_path / "archive")
    primary.query(f"CREATE TABLE t AS SELECT '{CANARY.decode()}' || g FROM generate_series(1, 9) g")
    end = primary.query("SELECT pg_current_wal_insert_lsn()")[0][0]
    options = ("-D", str(archive), "--no-loop", "--endpos", end)
    made = run(primary, forged, "pg_receivewal", *options)
    assert made.returncode != 0
    assert "Required key not available" in made.stderr
    assert "of the same UUID and with another WAL key" in logged(primary)
    assert all(not any(file.read_bytes()) for file in archive.iterdir())
    target = os_user_tmp_path / "backup"
    made = run(primary, forged, "pg_basebackup", "-D", str(target), "-c", "fast", "-X", "stream")
    assert made.returncode != 0


def test_a_new_configuration_does_not_claim_to_encrypt(
    any_binaries, encrypted_cluster_factory, os_user_tmp_path
):
    """What pg_basebackup -R writes is used later by programs without keys as well."""
    primary = encrypted_cluster_factory(any_binaries)
    target = os_user_tmp_path / "backup"
    options = ("-D", str(target), "-c", "fast", "-X", "stream", "--write-recovery-conf")
    made = run(primary, primary.keystore, "pg_basebackup", *options)
    assert made.returncode == 0, made.stderr
    written = (target / "postgresql.auto.conf").read_text()
    assert "primary_conninfo" in written
    assert "tde." not in written
    assert "options" not in written
