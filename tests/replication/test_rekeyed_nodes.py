"""Nodes of a pair get other keys one after the other, while one of them serves."""

from __future__ import annotations

from pathlib import Path

import pytest

from tde.algorithms import Algorithm
from tde.postgres import create_tablespace, prepare_key, rekey_tablespaces, run_program
from tde.postgres.cluster.keymap import KEYMAP_FILE, KeyMap, KeySource, map_key, read_map
from tests.postgres.cluster_copies import base_backup, make_directory, open_copy
from tests.replication.test_keys_on_standbys import follow, wait_for, wait_until_replayed

# Of the same name on both nodes, which are on one machine: each program works in its directory.
SPACES = Path("/proc/self/cwd/spaces")
OPTIONS = {"wal_keep_size": "256MB"}


def map_of(made) -> KeyMap:
    return read_map(made.data_directory, made.keystore.uuid, map_key(made.keystore))


def sums(made) -> list[object]:
    return [made.query(f"SELECT count(*), sum(g) FROM {t}")[0] for t in ("named", "derived", "d")]


@pytest.fixture
def pair(binaries_older_slow, encrypted_cluster_factory, os_user_tmp_path):
    """A primary and a standby, which has replayed no checkpoint since tablespaces were made."""
    primary = encrypted_cluster_factory(binaries_older_slow, options=OPTIONS)
    directory = os_user_tmp_path / "standby"
    base_backup(primary, directory, "--write-recovery-conf", "--wal-method=stream")
    standby = open_copy(encrypted_cluster_factory, primary, directory, primary.keystore)
    standby.start(OPTIONS)
    for made in (primary, standby):
        make_directory(made, made.data_directory / "spaces")
        make_directory(made, made.data_directory / "spaces/derived")
    prepared = prepare_key(primary.cluster, primary.keystore, SPACES, Algorithm.AES256)
    for made in (primary, standby):
        make_directory(made, made.data_directory / "spaces" / prepared.location.name)
    primary.query(f"CREATE TABLESPACE named LOCATION '{prepared.location}'")
    primary.query(f"CREATE TABLESPACE derived LOCATION '{SPACES / 'derived'}'")
    for name, space in (("named", "named"), ("derived", "derived"), ("d", "pg_default")):
        primary.query(
            f"CREATE TABLE {name} TABLESPACE {space} AS SELECT g FROM generate_series(1, 3000) g"
        )
    wait_until_replayed(primary, standby)
    return primary, standby


def rewind(target, source) -> tuple[int, str]:
    parameters = source.cluster.connection_parameters()
    text = " ".join(f"{key}={parameters[key]}" for key in ("host", "port", "user", "dbname"))
    run = run_program(
        target.cluster.binaries,
        "pg_rewind",
        ["-D", str(target.data_directory), "--no-sync", f"--source-server={text}"],
        keystore=target.keystore,
        os_user=target.cluster.os_user,
        timeout=120,
    )
    return run.returncode, run.stderr


def test_a_pair_is_rekeyed_node_by_node(pair, monkeypatch):
    primary, standby = pair
    standby.cluster.stop()
    made = map_of(standby)
    monkeypatch.chdir(standby.data_directory)
    summary = rekey_tablespaces(standby.cluster, standby.keystore, every=True)
    assert sorted(summary.tablespaces) == sorted((1663, 1664, *made.entries))
    monkeypatch.chdir("/")
    rekeyed = map_of(standby)
    primary.query("INSERT INTO named SELECT generate_series(1, 500)")
    # It replays both CREATE TABLESPACE once more, whose locations say another key.
    standby.start(OPTIONS)
    wait_until_replayed(primary, standby)
    assert sums(standby) == sums(primary)
    assert map_of(standby).history == rekeyed.history
    assert {entry.source for entry in rekeyed.entries.values()} == {KeySource.REKEYED}
    # What is made later has the key that its location says, on both.
    primary.query("CREATE TABLE later TABLESPACE named AS SELECT 1 AS x")
    wait_until_replayed(primary, standby)

    # The other way round.
    primary.cluster.stop()
    standby.query("SELECT pg_promote()")
    wait_for(lambda: standby.query("SELECT pg_is_in_recovery()") == [(False,)])
    standby.query("CHECKPOINT")  # Before 16, pg_rewind sees the new timeline only after that.
    standby.query("INSERT INTO d SELECT generate_series(1, 500)")
    primary.start(OPTIONS)
    primary.query("INSERT INTO d VALUES (-1)")  # So that there is something to rewind.
    primary.cluster.stop()
    before = (primary.data_directory / KEYMAP_FILE).read_bytes()
    monkeypatch.chdir(primary.data_directory)
    code, errors = rewind(primary, standby)
    assert code == 1
    assert f"tablespace 1663 has one key in {primary.data_directory}" in errors
    assert "tde tablespace rekey --all --same-keys-as MAP" in errors
    assert "nothing was changed" in errors
    assert (primary.data_directory / KEYMAP_FILE).read_bytes() == before

    rekey_tablespaces(
        primary.cluster, primary.keystore, every=True, same_keys_as=standby.data_directory
    )
    code, errors = rewind(primary, standby)
    assert code == 0, errors
    follow(primary, standby)
    primary.start(OPTIONS)
    wait_until_replayed(standby, primary)
    assert sums(primary) == sums(standby)
    assert map_of(primary).entries == map_of(standby).entries
    log = primary.cluster.default_log.read_text() + standby.cluster.default_log.read_text()
    assert "invalid page" not in log


def test_a_tablespace_that_is_made_again_at_its_oid_has_the_key_of_its_location(
    any_binaries, encrypted_cluster_factory, os_user_tmp_path
):
    """Crash recovery after a rekey knows only records that are younger than it."""
    made = encrypted_cluster_factory(any_binaries)
    create_tablespace(
        made.cluster, made.keystore, "space", os_user_tmp_path / "space", Algorithm.AES256
    )
    made.query("CREATE TABLE t TABLESPACE space AS SELECT g FROM generate_series(1, 1000) g")
    made.cluster.stop()
    rekey_tablespaces(made.cluster, made.keystore, ["space"])
    made.start()
    other = create_tablespace(
        made.cluster, made.keystore, "other", os_user_tmp_path / "other", Algorithm.AES128
    )
    made.query("CREATE TABLE o TABLESPACE other AS SELECT g FROM generate_series(1, 1000) g")
    made.query("INSERT INTO t SELECT generate_series(1, 1000)")
    made.cluster.stop("immediate")
    made.start()
    assert made.query("SELECT count(*) FROM t") == [(2000,)]
    assert made.query("SELECT count(*) FROM o") == [(1000,)]
    assert map_of(made).entries[other.oid].source is KeySource.NAMED
