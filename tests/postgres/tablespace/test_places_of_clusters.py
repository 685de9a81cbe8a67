"""Which cluster uses which key, where clusters move, share paths, or tell the key log nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tde.algorithms import Algorithm
from tde.file_rights import own_file_rights
from tde.keystore import KeyOwner, KeyState, Keystore, age_findings, read_key_log, read_lives
from tde.keystore.lifecycle import destruction
from tde.keystore.lifecycle.changes import forget_place, mark_key, set_age_limit
from tde.keystore.lifecycle.events import tell_of_place
from tde.postgres import Cluster, Scope, install_bin_directory, prepare_key
from tests.conftest import SERVER_OPTIONS, RunningCluster
from tests.postgres.programs import Programs
from tests.postgres.tablespace.test_keys_of_clusters import (
    destroy,
    keystore_of,
    refused,
    rotate_wal,
)

WAL = KeyOwner.wal()


@pytest.fixture
def stopped(any_binaries, encrypted_cluster_factory) -> RunningCluster:
    """A stopped cluster whose keystore knows no place but this one."""
    made: RunningCluster = encrypted_cluster_factory(
        any_binaries, initdb_args=("--wal-segsize=1",), start=False
    )
    keystore = keystore_of(made)
    for place in read_lives(keystore.path).places:
        if place.directory != made.data_directory:
            forget_place(keystore, place.directory)
    return made


def states(keystore: Keystore) -> dict[str, KeyState | None]:
    return {key.key_id: key.state for key in read_lives(keystore.path, keystore).keys}


def told(keystore: Keystore) -> list[str]:
    return [entry.event for entry in read_key_log(keystore.path).entries]


def test_a_cluster_that_was_moved_has_its_keys_watched(
    stopped: RunningCluster, caplog: pytest.LogCaptureFixture
) -> None:
    """An earlier release told of the new place and not of its keys, so no limit held any more."""
    keystore = keystore_of(stopped)
    stopped.start()
    stopped.cluster.stop()
    set_age_limit(keystore, "all", 1)
    mark_key(keystore, "1664", KeyState.SUSPENDED, "a laptop is missing")
    moved = stopped.data_directory.rename(stopped.data_directory.with_name("moved"))
    for place in read_lives(keystore.path).places:
        forget_place(keystore, place.directory)
    assert states(keystore)["wal"] is KeyState.DEACTIVATED
    try:
        cluster = Cluster(moved, stopped.cluster.binaries, os_user=stopped.cluster.os_user)
        cluster.start(keystore, options=SERVER_OPTIONS)
        wanted = {"wal", "other", "1663"}
        assert {
            key for key, state in states(keystore).items() if state is KeyState.ACTIVE
        } == wanted
        watched = {finding.file for finding in age_findings(read_lives(keystore.path, keystore))}
        assert {f"{key}.key" for key in wanted} <= watched
        cluster.stop()
        before = told(keystore)
        assert before[-2:] == ["serve cluster", "activate keys"]
        cluster.start(keystore, options=SERVER_OPTIONS)
        assert told(keystore) == before
        cluster.stop()
        # What cannot be told keeps no server from its start.
        log = keystore.path / "key.log"
        log.chmod(0o640)
        cluster.start(keystore, options=SERVER_OPTIONS)
        assert [str(log) in record.getMessage() for record in caplog.records].count(True) == 1
        log.chmod(0o600)
    finally:
        if cluster.pid is not None:
            cluster.stop("immediate")
        moved.rename(stopped.data_directory)


def test_plaintext_entries_are_no_keys_in_use(any_binaries, encrypted_cluster_factory) -> None:
    made = encrypted_cluster_factory(any_binaries, scope=Scope.TABLESPACES, start=False)
    keystore = keystore_of(made)
    for place in read_lives(keystore.path).places:
        forget_place(keystore, place.directory)
    made.start()
    entry = read_key_log(keystore.path).entries[-1]
    assert (entry.event, entry.details["keys"]) == ("activate keys", {"wal.key": "WAL"})


def test_keys_of_a_cluster_of_install_bin_are_watched_and_told_of(
    any_binaries, keystore_factory, os_user, os_user_tmp_path: Path
) -> None:
    keystore = keystore_factory("ks")
    keystore.enable_auto_open()
    made = install_bin_directory(os_user_tmp_path / "bin", any_binaries, os_user, keystore=keystore)
    programs = Programs(made.path, os_user_tmp_path, os_user)
    data = os_user_tmp_path / "data"
    programs.run("initdb", "-N", "-A", "trust", data)
    set_age_limit(keystore, "all", 1)
    files = {finding.file for finding in age_findings(read_lives(keystore.path, keystore))}
    assert {"wal.key", "other.key", "1663.key", "1664.key"} <= files
    cluster = Cluster(data, any_binaries, os_user=os_user)
    cluster.start(keystore, options=SERVER_OPTIONS)
    cluster.stop("immediate")
    assert set(states(keystore).values()) == {KeyState.ACTIVE}
    life = read_lives(keystore.path, keystore).find("wal.key")
    assert life is not None
    assert life.created is not None
    # It may be in use since it was made, so its age counts from there.
    assert life.since == life.created.time


def test_a_segment_that_comes_to_an_archive_meanwhile_keeps_its_key(
    stopped: RunningCluster, os_user_tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = os_user_tmp_path / "archive"
    archive.mkdir(mode=0o700)  # Of root, where root runs the tests and not the server.
    stopped.start()
    stopped.query("CREATE TABLE first AS SELECT 'x'")
    before = str(stopped.query("SELECT pg_walfile_name(pg_switch_wal() - 1)")[0][0])
    shutil.copy(stopped.data_directory / "pg_wal" / before, archive)
    second = rotate_wal(stopped)
    stopped.query("INSERT INTO t VALUES ('y')")
    segment = str(stopped.query("SELECT pg_walfile_name(pg_switch_wal() - 1)")[0][0])
    aside = Path(shutil.copy(stopped.data_directory / "pg_wal" / segment, os_user_tmp_path))
    rotate_wal(stopped)
    stopped.cluster.stop()
    rename = destruction._rename

    def archive_first(path: Path, new: Path) -> None:
        if new.name.endswith(".destroying"):
            with own_file_rights():
                shutil.copy(aside, archive / segment)
        rename(path, new)

    monkeypatch.setattr(destruction, "_rename", archive_first)
    refused(stopped, second, f"the archive {archive} has 1 WAL segments", archives=[archive])
    (archive / segment).unlink()
    monkeypatch.undo()
    destroy(stopped, second, archives=[archive])


def test_a_cluster_that_was_at_the_path_of_another_may_need_a_key(
    stopped: RunningCluster, os_user_tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The accident: what is at a path now was taken for what the log tells of there."""
    keystore, data = keystore_of(stopped), stopped.data_directory
    stopped.start()
    key = prepare_key(stopped.cluster, keystore, os_user_tmp_path / "s", Algorithm.AES256).key_id
    owner = KeyOwner.named(key)
    tell_of_place(keystore, data, 12345)
    remedy = refused(stopped, owner, f"identifier 12345 needs the key .* at {data}, and there is")
    assert "forget-cluster" in remedy
    forget_place(keystore, data)
    with monkeypatch.context() as patched:
        for module in ("tde.keystore.log.entry.socket", "tde.keystore.lifecycle.events"):
            patched.setattr(f"{module}.gethostname", lambda: "another")
        tell_of_place(
            keystore,
            data,
            int(stopped.query("SELECT system_identifier FROM pg_control_system()")[0][0]),
        )
    remedy = refused(stopped, owner, f"whether {data} on the host another needs the key")
    assert f"with -D {data}" in remedy
    forget_place(keystore, data)
    assert destroy(stopped, owner)["looked_at"] == [str(data)]
