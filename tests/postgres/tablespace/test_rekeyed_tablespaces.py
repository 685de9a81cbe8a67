"""Servers on tablespaces that have got another key, and backups from before."""

from __future__ import annotations

import json

import psycopg2
import pytest

from tde.algorithms import Algorithm
from tde.errors import ClusterKeystoreError, KeyMapError
from tde.postgres import audit, create_tablespace, rekey_tablespaces, run_program
from tde.postgres.cluster.keymap import KEYMAP_FILE, map_key, read_map
from tde.postgres.cluster.keystore_verification import needed_keys
from tests.postgres.canaries import CANARY
from tests.postgres.cluster.test_older_maps import start_alone
from tests.postgres.cluster_copies import base_backup, make_directory, open_copy
from tests.postgres.crashes.file_rewrites import kill_server

TABLES = {"named": "named", "derived": "derived", "built_in": "pg_default"}


def make_tables(made, directory) -> None:
    create_tablespace(made.cluster, made.keystore, "named", directory / "named", Algorithm.AES256)
    make_directory(made, directory / "derived")
    made.query(f"CREATE TABLESPACE derived LOCATION '{directory / 'derived'}'")
    for table, space in TABLES.items():
        made.query(
            f"CREATE TABLE {table} TABLESPACE {space} AS "
            f"SELECT g, '{CANARY.decode()}' || g AS x FROM generate_series(1, 3000) g"
        )
        made.query(f"CREATE INDEX ON {table} (x)")


def digests(made) -> list[object]:
    return [
        made.query(f"SELECT count(*), md5(string_agg(x, '' ORDER BY g)) FROM {table}")
        for table in TABLES
    ]


def test_a_server_works_on_the_new_keys_and_a_backup_on_the_old_ones(
    binaries_older_slow, encrypted_cluster_factory, os_user_tmp_path, tde_command
):
    made = encrypted_cluster_factory(binaries_older_slow)
    make_tables(made, os_user_tmp_path)
    before = digests(made)
    keymap = made.data_directory / KEYMAP_FILE
    older_map = keymap.read_bytes()
    spaces = made.query("SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE oid > 16000")
    backup = os_user_tmp_path / "backup"
    moved = [f"--tablespace-mapping={s}={backup}-{n}" for n, (s,) in enumerate(spaces)]
    base_backup(made, backup, "--wal-method=stream", *moved)

    where = (
        "-D",
        made.data_directory,
        "--bindir",
        binaries_older_slow.bindir,
        "--passphrase-fd",
        "0",
    )
    refused = tde_command("tablespace", "rekey", "named", *where, exit_code=1)
    assert "is running" in refused.stderr
    made.cluster.stop()
    for names, aes in ((["named"], "128"), (["derived"], "256")):
        shown = tde_command("tablespace", "rekey", *names, *where, "--aes", aes, "--json")
        assert json.loads(shown.stdout)["algorithm"] == f"AES-{aes}-XTS"
        assert len(json.loads(shown.stdout)["tablespaces"]) == 1
    made.start()
    assert digests(made) == before
    made.cluster.stop()
    shown = tde_command("tablespace", "rekey", "--all", *where)
    assert "Rekeyed tablespaces of" in shown.stdout
    assert "pg_default, pg_global" in shown.stdout
    checked = run_program(
        binaries_older_slow,
        "pg_checksums",
        ["--check", "-D", str(made.data_directory)],
        keystore=made.keystore,
        os_user=made.cluster.os_user,
    )
    assert "Bad checksums:  0" in checked.stdout

    made.start()
    assert digests(made) == before
    made.query("CREATE DATABASE copied")
    made.query("INSERT INTO named SELECT g, 'new' FROM generate_series(1, 3000) g")
    after = digests(made)
    kill_server(made.cluster.pid)
    # Recovery would write with the keys of before.
    newest_map = keymap.read_bytes()
    keymap.write_bytes(older_map)
    with pytest.raises(KeyMapError, match="the files of tablespace 1663 have another key than"):
        made.start()
    keymap.write_bytes(newest_map)
    made.start()
    assert digests(made) == after
    # The backup has other keys, which its own map knows.
    report = audit(made.cluster, made.keystore, backups=[backup])
    assert report.clean, report.findings

    older = open_copy(encrypted_cluster_factory, made, backup, made.keystore)
    older.start()
    assert digests(older) == before


def test_a_key_that_was_replaced_does_not_become_that_of_another_tablespace(
    any_binaries, encrypted_cluster_factory, os_user_tmp_path
):
    """Neither the first key of a tablespace, nor one that a built-in tablespace has or had."""
    made = encrypted_cluster_factory(any_binaries)
    space = os_user_tmp_path / "space"
    create_tablespace(made.cluster, made.keystore, "named", space, Algorithm.AES256)
    made.cluster.stop()
    for _ in range(2):
        rekey_tablespaces(made.cluster, made.keystore, every=True)
    made.start()
    history = read_map(made.data_directory, made.keystore.uuid, map_key(made.keystore)).history
    assert len(history) == 1 + 2 * 3
    for number, entry in enumerate(history):
        outer = make_directory(made, os_user_tmp_path / str(number))
        location = make_directory(made, outer / f"tde-{entry.key_id.hex}")
        with pytest.raises(psycopg2.Error, match="Required key not available"):
            made.query(f"CREATE TABLESPACE other LOCATION '{location}'")
        log = made.cluster.default_log.read_text()
        assert log.count("the key that the location names is that of tablespace") == number + 1
    create_tablespace(
        made.cluster, made.keystore, "other", os_user_tmp_path / "other", Algorithm.AES256
    )


def test_a_server_that_lacks_the_new_key_of_its_catalogs_does_not_start(
    any_binaries, encrypted_cluster_factory, os_user_tmp_path
):
    """Neither by tde pg start nor by the programs of tde pg install-bin; the old key is no help."""
    made = encrypted_cluster_factory(any_binaries, start=False)
    rekey_tablespaces(made.cluster, made.keystore, every=True)
    keymap = read_map(made.data_directory, made.keystore.uuid, map_key(made.keystore))
    for oid, name in ((1663, "pg_default"), (1664, "pg_global")):
        entry = keymap.find(oid)
        assert entry is not None
        record = made.keystore.path / "keys" / entry.owner.file_name
        away = record.with_suffix(".away")
        record.rename(away)
        with pytest.raises(ClusterKeystoreError, match=f"no key for {name}: {record.name}") as no:
            made.start()
        assert "tde keystore copy" in no.value.remedy
        needed = needed_keys(made.data_directory, made.keystore)
        assert [key.file for key in needed.keys if key.problem] == [record.name]
        make_directory(made, os_user_tmp_path / f"alone{oid}")
        code, log = start_alone(made, os_user_tmp_path / f"alone{oid}")
        assert code != 0
        assert f"there is no key file {record}" in log
        assert f"tde keystore copy BACKUP {made.keystore.path}" in log
        away.rename(record)
    # The record that it had before is not asked for any more.
    (made.keystore.path / "keys/1663.key").rename(os_user_tmp_path / "old.key")
    assert needed_keys(made.data_directory, made.keystore).good
    made.start()
    assert made.query("SELECT 1") == [(1,)]
