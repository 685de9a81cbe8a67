"""Tablespaces with keys of their own, made while the server runs."""

from __future__ import annotations

import time

import psycopg2
import pytest

from tde import PageCipher
from tde.algorithms import Algorithm
from tde.errors import (
    ClusterKeystoreError,
    KeyMissingError,
    ServerNotRunningError,
    TablespaceError,
)
from tde.keystore import inspect_keystore
from tde.page.identity import RelationIdentity
from tde.postgres import (
    Scope,
    create_tablespace,
    list_tablespaces,
    prepare_key,
)
from tde.postgres.cluster.standbys import connected_standbys
from tde.postgres.tablespace.standbys import unasked_notice
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


def test_sql_makes_no_tablespace_where_it_cannot_say_how(
    binaries, encrypted_cluster_factory, os_user_tmp_path
):
    made = encrypted_cluster_factory(binaries, scope=Scope.TABLESPACES)
    location = os_user_tmp_path / "nokey"
    make_directory(made, location)
    with pytest.raises(psycopg2.Error, match="Required key not available"):
        made.query(f"CREATE TABLESPACE nokey LOCATION '{location}'")
    assert 'use "tde tablespace create"' in made.cluster.default_log.read_text()
    assert len(list_tablespaces(made.cluster, None)) == 2
    assert made.cluster.status().tablespaces_without_key == []


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
    algorithm, key = made.keystore.derived_key(oid)
    database, relation = (int(part) for part in path.split("/")[-2:])
    page = (made.data_directory / path).read_bytes()[:8192]
    identity = RelationIdentity(database, relation)
    with PageCipher(bytes(key), algorithm=algorithm) as cipher:
        assert CANARY in cipher.decrypt_pages(page, identity=identity)
    made.cluster.restart(made.keystore)
    assert made.query("SELECT count(*) FROM space") == [(100,)]


def test_a_lost_key_is_named_at_the_start_and_never_replaced(
    binaries, encrypted_cluster_factory, os_user_tmp_path
):
    made = encrypted_cluster_factory(binaries)
    location = os_user_tmp_path / "space"
    created = create_tablespace(made.cluster, made.keystore, "space", location, Algorithm.AES128)
    assert not rows_are_on_disk(made, "space")
    made.cluster.stop()
    record = made.keystore.path / "keys" / created.key_file
    record.rename(record.with_name("lost"))
    with pytest.raises(ClusterKeystoreError, match=f"no key file {record}") as caught:
        made.cluster.start(made.keystore)
    assert f"tde keystore copy BACKUP {made.keystore.path}" in caught.value.remedy
    assert made.cluster.status().tablespaces_without_key == [created.oid]
    record.with_name("lost").rename(record)
    made.start()
    assert made.query("SELECT count(*) FROM space") == [(100,)]


def test_the_key_stays_whatever_fails_afterwards(
    any_binaries, encrypted_cluster_factory, os_user_tmp_path
):
    made = encrypted_cluster_factory(any_binaries)
    before = {record.file for record in inspect_keystore(made.keystore.path).keys}
    location = os_user_tmp_path / "space"
    with pytest.raises(TablespaceError, match='prefix "pg_" is reserved'):
        create_tablespace(made.cluster, made.keystore, "pg_space", location, Algorithm.AES256)
    assert not location.exists()
    assert len(list_tablespaces(made.cluster, None)) == 2
    assert len({r.file for r in inspect_keystore(made.keystore.path).keys} - before) == 1
    create_tablespace(made.cluster, made.keystore, "space", location, Algorithm.AES256)
    # A name that is taken costs no key.
    with pytest.raises(TablespaceError, match="exists already"):
        create_tablespace(made.cluster, made.keystore, "space", location, Algorithm.AES256)
    assert len({r.file for r in inspect_keystore(made.keystore.path).keys} - before) == 2


def test_a_prepared_key_is_used(any_binaries, encrypted_cluster_factory, os_user_tmp_path):
    made = encrypted_cluster_factory(any_binaries)
    location = os_user_tmp_path / "space"
    prepared = prepare_key(made.cluster, made.keystore, location, Algorithm.AES128)
    assert prepared.file.exists()
    assert not location.exists()
    created = create_tablespace(
        made.cluster, made.keystore, "space", location, None, key_id=prepared.key_id
    )
    assert created.location == str(prepared.location)
    assert created.protection == "AES-128-XTS"
    assert created in list_tablespaces(made.cluster, None)
    assert not rows_are_on_disk(made, "space")
    with pytest.raises(TablespaceError, match="is not empty"):
        create_tablespace(
            made.cluster, made.keystore, "again", location, None, key_id=prepared.key_id
        )
    with pytest.raises(KeyMissingError, match="does not exist"):
        create_tablespace(
            made.cluster, made.keystore, "other", location, None, key_id=made.keystore.uuid
        )


def test_one_key_is_not_used_for_two_tablespaces(
    any_binaries, encrypted_cluster_factory, os_user_tmp_path
):
    made = encrypted_cluster_factory(any_binaries)
    first = create_tablespace(
        made.cluster, made.keystore, "one", os_user_tmp_path / "one", Algorithm.AES256
    )
    name = first.location.rsplit("/", 1)[1]
    location = make_directory(made, os_user_tmp_path / name)
    with pytest.raises(psycopg2.Error, match="Required key not available"):
        made.query(f"CREATE TABLESPACE two LOCATION '{location}'")
    assert f"that of tablespace {first.oid}" in made.cluster.default_log.read_text()
    # The same place can be used again once nothing else has the key.
    made.query("DROP TABLESPACE one")
    made.query(f"CREATE TABLESPACE again LOCATION '{first.location}'")
    assert not rows_are_on_disk(made, "again")


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
    with pytest.raises(TablespaceError, match="inside the data directory"):
        create(directory=made.data_directory.name)
    (os_user_tmp_path / "file").touch()
    with pytest.raises(TablespaceError, match="not a directory"):
        create(directory="file")
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


def test_standbys_are_told_about_a_new_key(
    any_binaries, encrypted_cluster_factory, os_user_tmp_path, tde_command
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
    before = connected_standbys(primary.cluster)
    made = create_tablespace(
        primary.cluster, primary.keystore, "space", location, Algorithm.AES128, wait=False
    )
    notice = unasked_notice(primary.keystore, made, before)
    assert str(primary.keystore.path / "keys" / made.key_file) in notice
    assert "walreceiver" in notice
    # A file that was copied by hand would not open where a master key was rotated.
    assert "tde keystore sync HOST:DIR" in notice

    # Who prepares the key is told the same then, and not again.
    create = ["tablespace", "create", "next", "-D", primary.data_directory, "--location"]
    create += [os_user_tmp_path / "next", "--passphrase-fd", "0"]
    prepared = tde_command(*create, "--prepare")
    assert "tde keystore sync HOST:DIR" in prepared.stdout
    key_id = prepared.stdout.split()[2]
    created = tde_command(*create, "--key", key_id)
    assert "Created tablespace next" in created.stdout
    assert "--prepare" not in created.stderr
    assert "stops until" not in created.stderr
