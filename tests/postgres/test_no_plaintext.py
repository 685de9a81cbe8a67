"""No byte of a row is on disk in plaintext, whichever way it got there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support import CANARY, base_backup, files_with, settle

from tde import Algorithm
from tde.postgres import Scope, run_program
from tde.postgres.tablespace.tablespaces import create_tablespace

TEXT = CANARY.decode()

# Every way of writing rows that uses files of its own.
STATEMENTS = [
    "CREATE TABLE heap AS SELECT g AS id, '{text}' || g AS x FROM generate_series(1, 20000) g",
    "CREATE INDEX ON heap (x)",
    "CREATE INDEX ON heap USING hash (x)",
    "CREATE TABLE toast (x text)",
    "ALTER TABLE toast ALTER x SET STORAGE EXTERNAL",
    "INSERT INTO toast SELECT repeat('{text}', 5000) FROM generate_series(1, 20)",
    "CREATE UNLOGGED TABLE unlogged AS SELECT * FROM heap",
    "UPDATE heap SET x = x || 'again'",
    "VACUUM FULL heap",
    "CLUSTER heap USING heap_x_idx",
    "CREATE DATABASE walcopy TEMPLATE template_with_rows STRATEGY wal_log",
    "CREATE DATABASE filecopy TEMPLATE template_with_rows STRATEGY file_copy",
    "SELECT lo_from_bytea(0, decode('{text_hex}', 'hex'))",
    "SELECT pg_logical_emit_message(false, 'tde', '{text}')",
    "CREATE TABLE moved TABLESPACE secret AS SELECT * FROM heap",
    "ALTER TABLE toast SET TABLESPACE secret",
    "ALTER DATABASE filecopy SET TABLESPACE secret",
]


def fill(cluster, directory: Path) -> Path:
    """Write the canary in every way; returns the location of the tablespace."""
    location = directory / "tablespace"
    create_tablespace(cluster.cluster, cluster.keystore, "secret", location, Algorithm.AES128)
    cluster.query("CREATE DATABASE template_with_rows")
    cluster.query(f"CREATE TABLE t AS SELECT '{TEXT}' AS x", dbname="template_with_rows")
    for statement in STATEMENTS:
        cluster.query(statement.format(text=TEXT, text_hex=CANARY.hex()))
    return location


def test_rows_are_not_on_disk(binaries, encrypted_cluster_factory, os_user_tmp_path):
    cluster = encrypted_cluster_factory(binaries, options={"wal_level": "logical"})
    location = fill(cluster, os_user_tmp_path)
    settle(cluster)
    assert files_with(CANARY, cluster.data_directory, location) == []

    cluster.cluster.stop()
    assert files_with(CANARY, cluster.data_directory, location) == []

    cluster.start()
    for table in ("heap", "moved", "toast"):
        assert cluster.query(f"SELECT count(*) > 0 FROM {table} WHERE x LIKE '{TEXT}%'") == [
            (True,)
        ]
    assert cluster.query("SELECT count(*) FROM heap WHERE x LIKE '%again'") == [(20000,)]


def test_the_search_finds_rows_of_a_plain_cluster(any_binaries, encrypted_cluster_factory):
    """The same search must find what a plain server writes, or it proves nothing."""
    cluster = encrypted_cluster_factory.plain(any_binaries)
    cluster.query(f"CREATE TABLE heap AS SELECT '{TEXT}' AS x")
    settle(cluster)
    found = files_with(CANARY, cluster.data_directory)
    assert any("base" in path.parts for path in found)
    assert any("pg_wal" in path.parts for path in found)


def test_temporary_files_are_not_plaintext(any_binaries, encrypted_cluster_factory):
    """A sort that spills, a holdable cursor and a temporary table, while they are open."""
    import psycopg2

    cluster = encrypted_cluster_factory(any_binaries, options={"work_mem": "64kB"})
    connection = psycopg2.connect(**cluster.cluster.connection_parameters())
    cursor = connection.cursor()
    cursor.execute("SET temp_buffers = '800kB'")
    rows = f"SELECT '{TEXT}' || g AS x FROM generate_series(1, 60000) g"
    cursor.execute(f"CREATE TEMPORARY TABLE private AS {rows}")
    cursor.execute(f"DECLARE spilled CURSOR FOR {rows} ORDER BY md5(g::text)")
    cursor.execute("FETCH 10 FROM spilled")
    data = cluster.data_directory
    names = [path.name for path in data.rglob("*") if path.is_file()]
    assert any(name.startswith("pgsql_tmp") for name in names), "the sort did not spill"
    assert any(name.startswith("t") and name[1].isdigit() for name in names)
    assert files_with(CANARY, data) == []
    cursor.execute("SELECT count(*), count(DISTINCT x) FROM private")
    assert cursor.fetchone() == (60000, 60000)
    connection.close()


def test_scope_tablespaces_encrypts_wal_and_chosen_tablespaces(
    binaries, encrypted_cluster_factory, os_user_tmp_path
):
    cluster = encrypted_cluster_factory(binaries, scope=Scope.TABLESPACES)
    location = os_user_tmp_path / "tablespace"
    create_tablespace(cluster.cluster, cluster.keystore, "secret", location, Algorithm.AES256)
    cluster.query(f"CREATE TABLE hidden TABLESPACE secret AS SELECT '{TEXT}' AS x")
    settle(cluster)
    assert files_with(CANARY, cluster.data_directory, location) == []
    cluster.query(f"CREATE TABLE open AS SELECT '{TEXT}' AS x")
    settle(cluster)
    found = files_with(CANARY, cluster.data_directory, location)
    assert found
    assert all(path.is_relative_to(cluster.data_directory / "base") for path in found)


def canaries_seen_by_a_program(cluster) -> int:
    """Return how many lines with the canary grep, started by the server, sees in a table's file."""
    cluster.query(f"CREATE TABLE heap AS SELECT '{TEXT}' AS x FROM generate_series(1, 10)")
    path = cluster.query("SELECT pg_relation_filepath('heap')")[0][0]
    settle(cluster)
    cluster.query("CREATE TABLE seen (lines int)")
    # grep has exit status 1 when it finds nothing, which COPY would report as a failure.
    cluster.query(f"COPY seen FROM PROGRAM 'grep -ac {TEXT} {path} || test $? = 1'")
    return cluster.query("SELECT lines FROM seen")[0][0]


def test_programs_started_by_the_server_see_ciphertext(any_binaries, encrypted_cluster_factory):
    """Not even a child of the server reads plaintext; what keys it inherits is tested elsewhere."""
    assert canaries_seen_by_a_program(encrypted_cluster_factory.plain(any_binaries)) >= 1
    assert canaries_seen_by_a_program(encrypted_cluster_factory(any_binaries)) == 0


def test_base_backups_are_ciphertext(binaries, encrypted_cluster_factory, os_user_tmp_path):
    cluster = encrypted_cluster_factory(binaries)
    cluster.query(f"CREATE TABLE heap AS SELECT '{TEXT}' || g AS x FROM generate_series(1, 9999) g")
    for method in ("stream", "fetch"):
        target = os_user_tmp_path / method
        base_backup(cluster, target, f"--wal-method={method}")
        assert (target / "base").is_dir()
        assert files_with(CANARY, target) == []
    base_backup(cluster, os_user_tmp_path / "tar", "--format=tar", "--wal-method=fetch")
    assert files_with(CANARY, os_user_tmp_path / "tar") == []


def server_log(cluster) -> str:
    log = cluster.data_directory / "server.log"
    return (log if log.exists() else cluster.cluster.default_log).read_text()


def test_wal_is_not_streamed_to_a_backup_without_keys(
    any_binaries, encrypted_cluster_factory, os_user_tmp_path
):
    """It would store the WAL in plaintext; what a backup copies by itself is ciphertext."""
    cluster = encrypted_cluster_factory(any_binaries)
    cluster.query(f"CREATE TABLE heap AS SELECT '{TEXT}' AS x")
    stock = replace(cluster, keystore=None)
    with pytest.raises(AssertionError, match="Operation not supported"):
        base_backup(stock, os_user_tmp_path / "stream", "--no-verify-checksums")
    assert files_with(CANARY, os_user_tmp_path) == []
    assert "tde pg exec pg_basebackup" in server_log(cluster)
    fetched = os_user_tmp_path / "fetch"
    base_backup(stock, fetched, "--wal-method=fetch", "--no-verify-checksums")
    assert (fetched / "base").is_dir()
    assert files_with(CANARY, fetched) == []


def test_wal_is_not_streamed_to_pg_receivewal_without_keys(
    any_binaries, encrypted_cluster_factory, os_user_tmp_path
):
    cluster = encrypted_cluster_factory(any_binaries)
    cluster.query(f"CREATE TABLE heap AS SELECT '{TEXT}' AS x")
    parameters = cluster.cluster.connection_parameters()
    options = ["-h", str(parameters["host"]), "-p", str(parameters["port"]), "--no-loop"]
    run = run_program(
        cluster.cluster.binaries,
        "pg_receivewal",
        [*options, "-U", str(parameters["user"]), "-D", str(os_user_tmp_path)],
        keystore=None,
        os_user=cluster.cluster.os_user,
        timeout=120,
    )
    assert run.returncode != 0
    assert "Operation not supported" in run.stderr
    assert files_with(CANARY, os_user_tmp_path) == []


def test_checksums_of_an_encrypted_cluster_verify(any_binaries, encrypted_cluster_factory):
    cluster = encrypted_cluster_factory(any_binaries)
    cluster.query("CREATE TABLE heap AS SELECT g FROM generate_series(1, 50000) g")
    cluster.cluster.stop()
    arguments = ["--check", "-D", str(cluster.data_directory)]
    user = cluster.cluster.os_user
    for keystore, expected in ((cluster.keystore, 0), (None, 1)):
        run = run_program(
            cluster.cluster.binaries, "pg_checksums", arguments, keystore=keystore, os_user=user
        )
        assert run.returncode == expected, run.stdout + run.stderr
