"""A standby with a keystore of its own: it stops where it lacks a key, and never uses another."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from tde.algorithms import Algorithm
from tde.errors import KeystoreDamagedError, ServerStartError
from tde.keystore import Keystore, add_missing_keys, rotate_master_key
from tde.page.codec import PAGE_SIZE as PAGE
from tde.postgres import prepare_key
from tde.postgres.cluster.keymap import KeySource, map_key, read_map
from tde.postgres.server.interposer import require_interposed
from tests.conftest import RunningCluster
from tests.keystore.cheap_passphrase import PASSPHRASE
from tests.postgres.canaries import settle
from tests.postgres.cluster_copies import base_backup, configure, make_directory, open_copy

# Each server finds its own directory by this name, although all of them are on one machine.
OWN = Path("/proc/self/cwd/spaces")


def wait_for(condition, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def wait_until_replayed(primary, standby) -> None:
    target = primary.query("SELECT pg_current_wal_flush_lsn()")[0][0]
    statement = f"SELECT coalesce(pg_last_wal_replay_lsn() >= '{target}'::pg_lsn, false)"
    wait_for(lambda: standby.query(statement) == [(True,)])


def follow(cluster, primary) -> None:
    """Make a stopped cluster a standby of a server."""
    parameters = primary.cluster.connection_parameters()
    text = " ".join(f"{key}={parameters[key]}" for key in ("host", "port", "user"))
    configure(cluster, [f"primary_conninfo = '{text}'", "recovery_target_timeline = 'latest'"])
    (cluster.data_directory / "standby.signal").touch()


def make_location(cluster, location: Path) -> None:
    spaces = cluster.data_directory / "spaces"
    if not spaces.exists():
        make_directory(cluster, spaces)
    make_directory(cluster, spaces / location.name)


def without_new_blocks(content: bytes) -> bytes:
    """Take the blocks of zeros from the end: PostgreSQL 16 extends a table by more than it needs.

    What replays that does not do the same; a pair of plain servers of 16 differs as well.
    """
    while content.endswith(bytes(PAGE)):
        content = content[:-PAGE]
    return content


@pytest.fixture
def pair(binaries_older_slow, encrypted_cluster_factory, os_user_tmp_path, os_user):
    """A primary, and a standby with a copy of the keystore that gets no key by itself."""
    primary = encrypted_cluster_factory(binaries_older_slow)
    copied = os_user_tmp_path / "standby-keystore"
    shutil.copytree(primary.keystore.path, copied)
    if os_user is not None:
        for path in (copied, *copied.rglob("*")):
            os.chown(path, os_user.uid, os_user.gid)
    directory = os_user_tmp_path / "standby"
    base_backup(primary, directory, "--write-recovery-conf", "--wal-method=stream")
    with Keystore.open(copied, PASSPHRASE) as keystore:
        standby = open_copy(encrypted_cluster_factory, primary, directory, keystore)
        standby.start()
        yield primary, standby


def test_a_standby_without_the_key_stops_and_goes_on_with_it(pair):
    primary, standby = pair
    prepared = prepare_key(primary.cluster, primary.keystore, OWN, Algorithm.AES256)
    for cluster in pair:
        make_location(cluster, prepared.location)
    primary.query(f"CREATE TABLESPACE space LOCATION '{prepared.location}'")
    primary.query("CREATE TABLE t TABLESPACE space AS SELECT generate_series(1, 1000) AS g")
    wait_for(lambda: standby.cluster.pid is None)
    log = standby.cluster.default_log.read_text()
    wanted = standby.keystore.path / "keys" / prepared.file.name
    assert f"there is no key file {wanted}" in log
    assert f"tde keystore copy BACKUP {standby.keystore.path}" in log
    assert "Required key not available" in log
    # It does not get over it, and writes nothing with another key.
    with pytest.raises(ServerStartError):
        standby.start()
    assert list((standby.data_directory / "spaces").rglob("[0-9]*")) == []

    add_missing_keys(primary.keystore.path, standby.keystore)
    assert wanted.exists()
    standby.start()
    wait_until_replayed(primary, standby)
    assert standby.query("SELECT count(*) FROM t") == [(1000,)]

    # Failover, and the old primary comes back: everything is equal, ciphertext too.
    primary.cluster.stop()
    standby.query("SELECT pg_promote()")
    wait_for(lambda: standby.query("SELECT pg_is_in_recovery()") == [(False,)])
    standby.query("INSERT INTO t SELECT generate_series(1, 500)")
    follow(primary, standby)
    primary.start()
    wait_until_replayed(standby, primary)
    assert primary.query("SELECT count(*), sum(g) FROM t") == standby.query(
        "SELECT count(*), sum(g) FROM t"
    )
    standby.query("VACUUM (FREEZE) t")
    settle(standby)
    wait_until_replayed(standby, primary)
    primary.query("CHECKPOINT")
    name = standby.query("SELECT pg_relation_filepath('t')")[0][0]
    version = Path(name).relative_to(Path(*Path(name).parts[:2]))
    files = [c.data_directory / "spaces" / prepared.location.name / version for c in pair]
    stored = [without_new_blocks(file.read_bytes()) for file in files]
    assert stored[0] == stored[1]
    assert len(stored[0]) == 7 * PAGE  # 1,500 rows: the blocks of a plain server.
    maps = [read_map(c.data_directory, c.keystore.uuid, map_key(c.keystore)).entries for c in pair]
    assert maps[0] == maps[1]


def test_a_tablespace_made_in_sql_needs_no_copy(pair):
    primary, standby = pair
    for cluster in pair:
        make_location(cluster, OWN / "plain-name")
    primary.query(f"CREATE TABLESPACE space LOCATION '{OWN / 'plain-name'}'")
    primary.query("CREATE TABLE t TABLESPACE space AS SELECT generate_series(1, 1000) AS g")
    wait_until_replayed(primary, standby)
    assert standby.query("SELECT count(*) FROM t") == [(1000,)]
    for cluster in pair:
        found = read_map(cluster.data_directory, cluster.keystore.uuid, None)
        assert {entry.source for entry in found.entries.values()} == {KeySource.DERIVED}
    # Dropped while the standby is away: it makes a directory in its place, and goes on.
    standby.cluster.stop("immediate")
    primary.query("INSERT INTO t SELECT 1")
    primary.query("DROP TABLE t")
    primary.query("CHECKPOINT")
    primary.query("DROP TABLESPACE space")
    primary.query("CREATE TABLE after AS SELECT 1 AS x")
    standby.start()
    wait_until_replayed(primary, standby)
    assert standby.query("SELECT x FROM after") == [(1,)]


def test_a_key_file_that_was_copied_by_hand_is_named(pair):
    """The standby's copy has a master key of its own, so cp brings a file that does not fit."""
    primary, standby = pair
    standby.cluster.stop()
    with rotate_master_key(standby.keystore.path, PASSPHRASE) as rotated:
        standby = RunningCluster(standby.cluster, rotated)
        standby.start()
        prepared = prepare_key(primary.cluster, primary.keystore, OWN, Algorithm.AES256)
        for cluster in (primary, standby):
            make_location(cluster, prepared.location)
        by_hand = rotated.path / "keys" / prepared.file.name
        shutil.copy(prepared.file, by_hand)
        os.chown(by_hand, *standby_owner(rotated.path))
        primary.query(f"CREATE TABLESPACE space LOCATION '{prepared.location}'")
        wait_for(lambda: standby.cluster.pid is None)
        log = standby.cluster.default_log.read_text()
        assert "move this file away" in log
        # Whether a start fails with this or the server only stops a moment later is chance.
        with pytest.raises(KeystoreDamagedError, match=f"{by_hand} is wrapped with another") as bad:
            require_interposed(log)
        assert f"tde keystore copy BACKUP {rotated.path}" in bad.value.remedy
        by_hand.unlink()
        add_missing_keys(primary.keystore.path, rotated, primary.keystore)
        standby.start()
        wait_until_replayed(primary, standby)


def standby_owner(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_uid, status.st_gid
