"""Starts that are slow, simultaneous, or come after the keystore was moved."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from pathlib import Path

import pytest

from tde.algorithms import Algorithm
from tde.errors import (
    ClusterBusyError,
    ClusterKeystoreError,
    InterposerError,
    ServerStartError,
    ServerStillStartingError,
)
from tde.keystore import Keystore
from tde.postgres import Cluster, create_tablespace, encrypt_cluster
from tde.postgres.cluster.lock import cluster_lock
from tde.postgres.server import launch
from tde.postgres.server.sockets import private_directory, remove_private_directory

PASSPHRASE = b"a passphrase for tests"


def make_slow(made) -> None:
    """Let the next start wait in recovery for a file of the archive."""
    (made.data_directory / "recovery.signal").touch()
    with (made.data_directory / "postgresql.auto.conf").open("a") as file:
        file.write("restore_command = 'sleep 60; false'\n")


def test_a_slow_start_is_checked_and_left_alone(any_binaries, encrypted_cluster_factory):
    made = encrypted_cluster_factory(any_binaries, start=False)
    make_slow(made)
    with pytest.raises(ServerStillStartingError, match="is still starting") as caught:
        made.start(timeout=2)
    pid = made.cluster.pid
    assert pid is not None
    assert str(pid) in str(caught.value)
    assert "tde pg status" in caught.value.remedy
    assert made.cluster.status().interposed is True
    sockets = private_directory(made.data_directory, made.cluster.os_user)
    assert sockets.is_dir()
    with pytest.raises(ServerStartError, match="already running"):
        made.start()
    made.cluster.stop("immediate")
    assert not sockets.exists()


def test_a_slow_start_without_interposer_is_stopped(
    any_binaries, encrypted_cluster_factory, monkeypatch
):
    made = encrypted_cluster_factory(any_binaries, start=False)
    make_slow(made)
    monkeypatch.setattr(launch, "is_interposed", lambda pid: False)
    with pytest.raises(InterposerError, match="stopped again"):
        made.start(timeout=2)
    assert made.cluster.pid is None


def test_one_command_at_a_time(any_binaries, encrypted_cluster_factory):
    made = encrypted_cluster_factory.plain(any_binaries)
    with cluster_lock(made.data_directory):
        with pytest.raises(ClusterBusyError, match="by another tde command"):
            made.cluster.stop(timeout=1)
        with pytest.raises(ClusterBusyError):
            made.cluster.restart(None)
    made.cluster.stop()
    with cluster_lock(made.data_directory), pytest.raises(ClusterBusyError) as caught:
        made.start()
    assert caught.value.remedy
    made.start()


def test_the_lock_of_a_directory_being_created(any_binaries, encrypted_cluster_factory):
    directory = encrypted_cluster_factory.directory / "plain"
    directory.mkdir()
    with cluster_lock(directory), pytest.raises(ClusterBusyError):
        Cluster(directory, any_binaries).init(keystore=None)
    assert list(directory.iterdir()) == []


def test_a_file_system_that_locks_no_directories(
    any_binaries, encrypted_cluster_factory, monkeypatch
):
    """As NFS; two conversions at once would destroy the cluster."""
    made = encrypted_cluster_factory.plain(any_binaries, start=False)
    keystore = encrypted_cluster_factory.keystore()
    lock = fcntl.flock

    def files_only(descriptor: int, operation: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        lock(descriptor, operation)

    def never(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", files_only)
    with cluster_lock(made.data_directory), pytest.raises(ClusterBusyError, match="by another"):
        encrypt_cluster(made.cluster, keystore)
    monkeypatch.setattr(fcntl, "flock", never)
    with pytest.raises(ClusterBusyError, match="No locks available"):
        encrypt_cluster(made.cluster, keystore)
    made.start()
    made.cluster.stop()
    monkeypatch.setattr(fcntl, "flock", files_only)
    encrypt_cluster(made.cluster, keystore)


def test_sockets_of_a_running_server_stay(any_binaries, encrypted_cluster_factory):
    made = encrypted_cluster_factory.plain(any_binaries)
    sockets = Path(str(made.cluster.connection_parameters()["host"]))
    for file in sockets.iterdir():
        file.unlink()  # As if the server had not come as far as making them.
    remove_private_directory(made.data_directory, made.cluster.os_user)
    assert sockets.is_dir()


def test_a_restart_that_fails_says_that_the_server_is_down(any_binaries, encrypted_cluster_factory):
    made = encrypted_cluster_factory.plain(any_binaries)
    with pytest.raises(ServerStartError, match="is now DOWN"):
        made.cluster.restart(None, options={"shared_preload_libraries": "nosuchlibrary"})
    assert made.cluster.pid is None


def test_the_keystore_has_moved(any_binaries, encrypted_cluster_factory, os_user_tmp_path):
    made = encrypted_cluster_factory(any_binaries)
    old, new = made.keystore.path, os_user_tmp_path / "moved"
    old.rename(new)
    with Keystore.open(new, PASSPHRASE) as moved:
        with pytest.raises(ClusterKeystoreError) as caught:
            create_tablespace(
                made.cluster, moved, "early", os_user_tmp_path / "early", Algorithm.AES128
            )
        assert f"tde pg restart --keystore {new}" in caught.value.remedy
        made.cluster.restart(moved)
        create_tablespace(
            made.cluster, moved, "space", os_user_tmp_path / "space", Algorithm.AES128
        )
    made.query("CREATE TABLE t TABLESPACE space AS SELECT 1 AS a")
    status = made.cluster.status()
    assert status.keystore == new
    assert status.keystore_problem == ""
    owner = (made.data_directory / "tde.json").stat().st_uid
    assert owner == made.data_directory.stat().st_uid


def test_the_old_place_is_named_only_while_it_exists(any_binaries, encrypted_cluster_factory):
    made = encrypted_cluster_factory(any_binaries, start=False)
    with pytest.raises(ClusterKeystoreError) as caught:
        made.cluster.start(None)
    assert f"last used at {made.keystore.path}" in caught.value.remedy
    made.keystore.path.rename(made.keystore.path.with_name("moved"))
    with pytest.raises(ClusterKeystoreError) as caught:
        made.cluster.start(None)
    assert "no longer at" in caught.value.remedy
