"""Tablespaces with keys of their own, made while the server runs."""

from __future__ import annotations

import time

import psycopg2
import pytest

from tde import PageCipher
from tde.algorithms import Algorithm
from tde.errors import (
    ClusterKeystoreError,
    KeystoreExistsError,
    ServerNotRunningError,
    TablespaceError,
)
from tde.keystore import inspect_keystore
from tde.page.identity import RelationIdentity
from tde.postgres import (
    Scope,
    create_tablespace,
    list_tablespaces,
    protect_tablespace,
    standby_notice,
)
from tests.postgres.cluster_copies import base_backup, make_directory, open_copy

CANARY = b"tablespace-canary"


def rows_are_on_disk(made, table: str) -> bool:
    """Tell whether the rows of a table of CANARY can be read in its file."""
    made.query(
        f"CREATE TABLE {table} TABLESPACE {table} AS "
        f"SELECT '{CANARY.decode()}' AS v FROM generate_series(1, 100)"
    )
    path = made.query(f"SELECT pg_relation_filepath('{table}')")[0][0]
    made.query("CHECKPOINT")
    content = (made.data_directory / path).read_bytes()
    assert len(content) >= 8192
    return CANARY in content


@pytest.mark.parametrize("algorithm", [Algorithm.AES128, Algorithm.AES256, None])
def test_a_tablespace_with_a_key_is_made_while_the_server_runs(
    binaries, encrypted_cluster_factory, os_user_tmp_path, algorithm
):
    made = encrypted_cluster_factory(binaries, scope=Scope.TABLESPACES)
    location = os_user_tmp_path / "space"
    created = create_tablespace(made.cluster, made.keystore, "space", location, algorithm)
    assert created.protection == (algorithm.label if algorithm else "plaintext")
    assert created in list_tablespaces(made.cluster, made.keystore.path)
    assert rows_are_on_disk(made, "space") is (algorithm is None)
    made.cluster.restart(made.keystore)
    assert made.query("SELECT count(*) FROM space") == [(100,)]


def test_tablespace_without_key_is_closed_and_listed(
    binaries, encrypted_cluster_factory, os_user_tmp_path
):
    made = encrypted_cluster_factory(binaries, scope=Scope.TABLESPACES)
    location = os_user_tmp_path / "nokey"
    make_directory(made, location)
    made.query(f"CREATE TABLESPACE nokey LOCATION '{location}'")
    with pytest.raises(psycopg2.Error, match="Required key not available"):
        made.query("CREATE TABLE t(a int) TABLESPACE nokey")
    oid = made.query("SELECT oid FROM pg_tablespace WHERE spcname = 'nokey'")[0][0]
    assert made.cluster.status().tablespaces_without_key == [oid]
    protections = {t.name: t.protection for t in list_tablespaces(made.cluster, None)}
    assert protections["nokey"] == "NO KEY"
    assert protections["pg_default"] == "plaintext"


def test_tablespace_made_in_sql_has_a_derived_key(
    binaries, encrypted_cluster_factory, os_user_tmp_path
):
    made = encrypted_cluster_factory(binaries, algorithm=Algorithm.AES128)
    location = make_directory(made, os_user_tmp_path / "space")
    made.query(f"CREATE TABLESPACE space LOCATION '{location}'")
    assert not rows_are_on_disk(made, "space")
    protections = {t.name: t.protection for t in list_tablespaces(made.cluster, None)}
    assert protections["space"] == "AES-128-XTS"
    oid, path = made.query(
        "SELECT t.oid, pg_relation_filepath('space') FROM pg_tablespace t WHERE spcname = 'space'"
    )[0]
    assert made.cluster.status().protections[str(oid)] == "AES-128-XTS"
    # The server's derivation is the library's: the page on disk decrypts to the rows.
    algorithm, key = made.keystore.tablespace_key(oid)
    database, relation = (int(part) for part in path.split("/")[-2:])
    page = (made.data_directory / path).read_bytes()[:8192]
    identity = RelationIdentity(database, relation)
    with PageCipher(bytes(key), algorithm=algorithm) as cipher:
        assert CANARY in cipher.decrypt_pages(page, identity=identity)
    made.cluster.restart(made.keystore)
    assert made.query("SELECT count(*) FROM space") == [(100,)]


def test_lost_record_is_not_replaced_by_a_derived_key(
    binaries, encrypted_cluster_factory, os_user_tmp_path
):
    made = encrypted_cluster_factory(binaries)
    location = os_user_tmp_path / "space"
    created = create_tablespace(made.cluster, made.keystore, "space", location, Algorithm.AES128)
    assert not rows_are_on_disk(made, "space")
    made.cluster.stop()
    record = made.keystore.path / "keys" / f"{created.oid}.key"
    record.rename(record.with_name("lost"))
    made.start()
    # Neither the pages that are there nor new ones: those would be lost with the record's return.
    for statement in ("SELECT count(*) FROM space", "CREATE TABLE new(a int) TABLESPACE space"):
        with pytest.raises(psycopg2.Error, match="Required key not available"):
            made.query(statement)
    record.with_name("lost").rename(record)
    assert made.query("SELECT count(*) FROM space") == [(100,)]


def test_own_key_replaces_a_derived_one_only_while_there_is_no_file(
    binaries, encrypted_cluster_factory, os_user_tmp_path
):
    made = encrypted_cluster_factory(binaries, algorithm=Algorithm.AES128)
    location = make_directory(made, os_user_tmp_path / "space")
    made.query(f"CREATE TABLESPACE space LOCATION '{location}'")
    # A backend that has used the derived key must take the record once it is there.
    made.query("CREATE TABLE early(a int) TABLESPACE space")
    with pytest.raises(TablespaceError, match="has files already"):
        protect_tablespace(made.cluster, made.keystore, "space", Algorithm.AES256)
    made.query("DROP TABLE early")
    made.query("CHECKPOINT")
    protect_tablespace(made.cluster, made.keystore, "space", Algorithm.AES256)
    assert not rows_are_on_disk(made, "space")
    made.cluster.restart(made.keystore)
    assert made.query("SELECT count(*) FROM space") == [(100,)]
    assert list_tablespaces(made.cluster, None)[-1].protection == "AES-256-XTS"


def test_rolled_back_when_the_key_cannot_be_written(
    any_binaries, encrypted_cluster_factory, os_user_tmp_path, monkeypatch
):
    made = encrypted_cluster_factory(any_binaries)
    before = inspect_keystore(made.keystore.path).keys

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(made.keystore, "create_key", fail)
    location = os_user_tmp_path / "space"
    with pytest.raises(OSError, match="No space left"):
        create_tablespace(made.cluster, made.keystore, "space", location, Algorithm.AES256)
    assert not location.exists()
    assert len(list_tablespaces(made.cluster, None)) == 2
    assert inspect_keystore(made.keystore.path).keys == before
    monkeypatch.undo()
    create_tablespace(made.cluster, made.keystore, "space", location, Algorithm.AES256)


def test_tablespaces_that_cannot_be_made_are_refused(
    any_binaries, encrypted_cluster_factory, os_user_tmp_path, keystore_factory
):
    made = encrypted_cluster_factory(any_binaries)

    def create(name="space", keystore=made.keystore, directory="space", algorithm=Algorithm.AES128):
        create_tablespace(made.cluster, keystore, name, os_user_tmp_path / directory, algorithm)

    with pytest.raises(TablespaceError, match="no tablespaces in plain text"):
        create(algorithm=None)
    with pytest.raises(ClusterKeystoreError, match="does not belong"):
        create(keystore=keystore_factory("other"))
    with pytest.raises(TablespaceError, match="not an empty directory"):
        create(directory=made.data_directory.name)
    with pytest.raises(TablespaceError, match='prefix "pg_" is reserved'):
        create(name="pg_mine")
    assert not (os_user_tmp_path / "space").exists()
    made.cluster.stop()
    with pytest.raises(ServerNotRunningError):
        create()


def test_a_plain_cluster_lists_its_tablespaces_as_plaintext(
    any_binaries, encrypted_cluster_factory
):
    made = encrypted_cluster_factory.plain(any_binaries)
    found = list_tablespaces(made.cluster, None)
    assert [(t.name, t.protection) for t in found] == [
        ("pg_default", "plaintext"),
        ("pg_global", "plaintext"),
    ]


def test_a_tablespace_made_in_sql_gets_a_key_of_its_own(
    binaries, encrypted_cluster_factory, os_user_tmp_path
):
    made = encrypted_cluster_factory(binaries, scope=Scope.TABLESPACES)
    location = make_directory(made, os_user_tmp_path / "space")
    made.query(f"CREATE TABLESPACE space LOCATION '{location}'")
    with pytest.raises(psycopg2.Error, match="Required key not available"):
        made.query("CREATE TABLE early(a int) TABLESPACE space")
    protected = protect_tablespace(made.cluster, made.keystore, "space", Algorithm.AES128)
    assert protected in list_tablespaces(made.cluster, None)
    assert standby_notice(made.cluster, made.keystore, protected) == ""
    assert not rows_are_on_disk(made, "space")
    with pytest.raises(TablespaceError, match="has files already") as caught:
        protect_tablespace(made.cluster, made.keystore, "space", Algorithm.AES128)
    assert caught.value.remedy
    with pytest.raises(TablespaceError, match="no tablespace"):
        protect_tablespace(made.cluster, made.keystore, "other", Algorithm.AES128)
    with pytest.raises(KeystoreExistsError):
        protect_tablespace(made.cluster, made.keystore, "pg_default", Algorithm.AES128)


def test_files_without_a_key_are_not_taken_for_encrypted(
    any_binaries, encrypted_cluster_factory, os_user_tmp_path
):
    made = encrypted_cluster_factory(any_binaries, scope=Scope.TABLESPACES)
    location = os_user_tmp_path / "space"
    make_directory(made, location)
    made.query(f"CREATE TABLESPACE space LOCATION '{location}'")
    version = next(location.iterdir())
    (version / "5").mkdir()
    (version / "5" / "16384").write_bytes(b"\1" * 8192)
    with pytest.raises(TablespaceError, match="16384"):
        protect_tablespace(made.cluster, made.keystore, "space", Algorithm.AES128)
    assert made.cluster.status().tablespaces_without_key


def test_standbys_are_told_about_a_new_key(
    any_binaries, encrypted_cluster_factory, os_user_tmp_path
):
    primary = encrypted_cluster_factory(any_binaries)
    directory = os_user_tmp_path / "standby"
    base_backup(primary, directory, "--write-recovery-conf", "--wal-method=stream")
    standby = open_copy(encrypted_cluster_factory, primary, directory, primary.keystore)
    standby.start()
    deadline = time.monotonic() + 30
    while not primary.query("SELECT 1 FROM pg_stat_replication"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    location = os_user_tmp_path / "space"
    made = create_tablespace(primary.cluster, primary.keystore, "space", location, Algorithm.AES128)
    notice = standby_notice(primary.cluster, primary.keystore, made)
    assert str(primary.keystore.path / "keys" / f"{made.oid}.key") in notice
    assert "walreceiver" in notice
