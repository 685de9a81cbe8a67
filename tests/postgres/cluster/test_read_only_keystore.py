"""Servers whose keystore is read-only: a container's secret, which root owns with mode 0440."""

from __future__ import annotations

import os
import traceback
from pathlib import Path

import pytest

from tde.keystore import Keystore, read_key_log
from tde.postgres import Cluster, OsUser, PostgresBinaries, install_bin_directory
from tests.conftest import SERVER_OPTIONS, ClusterFactory, RunningCluster
from tests.keystore.cheap_passphrase import PASSPHRASE
from tests.postgres.programs import Programs

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")

BY_FD = ("--passphrase-fd", "0")


def share_with_group(keystore: Path, os_user: OsUser) -> None:
    """Do what Kubernetes and the like do with a secret: root:group, 0550 and 0440."""
    for path in [keystore, *keystore.rglob("*")]:
        os.chown(path, 0, os_user.gid)
        path.chmod(0o550 if path.is_dir() else 0o440)


def content(keystore: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in keystore.rglob("*") if path.is_file()}


@pytest.fixture
def cluster(
    encrypted_cluster_factory: ClusterFactory, any_binaries: PostgresBinaries, os_user: OsUser
) -> RunningCluster:
    made = encrypted_cluster_factory(any_binaries, start=False)
    assert made.keystore is not None
    made.keystore.enable_auto_open()
    share_with_group(made.keystore.path, os_user)
    return made


def test_server_starts_and_every_change_is_refused(
    cluster: RunningCluster, tde_command, os_user: OsUser, tmp_path: Path
) -> None:
    keystore = cluster.keystore.path
    before = content(keystore)
    data = cluster.data_directory
    started = tde_command("pg", "start", "-D", data, "--closed", *BY_FD)
    # One line says where the key log's entry is not.
    assert started.stderr.count("read-only") == 1
    assert "syslog" in started.stderr
    cluster.query("CREATE TABLE t AS SELECT 1 AS a")
    assert "closed" in tde_command("pg", "status", "-D", data).stdout
    # What changes the server alone works.
    tde_command("keystore", "open", "-D", data)
    assert "closed" not in tde_command("pg", "status", "-D", data).stdout
    # A tablespace that is made in SQL needs no new record; one with a key of its own does.
    location = data.with_name("own")
    for command in (
        ("tablespace", "create", "own", "--location", location, "-D", data),
        ("wal", "rotate", "-D", data),
        ("keystore", "auto-open", "disable", "-k", keystore),
        ("keystore", "backup", tmp_path / "backup", "-k", keystore),
    ):
        refused = tde_command(*command, exit_code=5)
        assert f"the keystore {keystore} is read-only" in refused.stderr, command
        assert "Make the change in the keystore that it was made from" in refused.stderr
    assert cluster.query("SELECT count(*) FROM pg_tablespace") == [(2,)]
    assert not location.exists()
    doctor = tde_command("pg", "doctor", "-D", data, "--json").stdout
    assert "read-only, and only root and group" in doctor
    tde_command("pg", "stop", "-D", data)
    assert content(keystore) == before
    assert not (tmp_path / "backup").exists()


def test_without_root_and_with_the_passphrase(cluster: RunningCluster, os_user: OsUser) -> None:
    """In a container nothing is root's but the secret."""
    # Before the change of user, who may not reach the environment of the tests.
    import tde.postgres.server.symbols  # noqa: F401

    (cluster.keystore.path / "auto-open.key").unlink()
    binaries = cluster.cluster.binaries
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setgroups([])
            os.setgid(os_user.gid)
            os.setuid(os_user.uid)
            own = Cluster(cluster.data_directory, binaries)
            with Keystore.open(cluster.keystore.path, PASSPHRASE) as keystore:
                own.start(keystore, options=SERVER_OPTIONS)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert cluster.query("SELECT count(*) > 0 FROM pg_class") == [(True,)]


@pytest.mark.slow
def test_programs_of_install_bin(
    cluster: RunningCluster, os_user: OsUser, os_user_tmp_path: Path
) -> None:
    keystore = cluster.keystore
    made = install_bin_directory(
        os_user_tmp_path / "bin", cluster.cluster.binaries, os_user, keystore=keystore
    )
    programs = Programs(made.path, os_user_tmp_path, os_user)
    programs.start(cluster.data_directory)
    try:
        assert programs.sql("SELECT 1") == "1"
    finally:
        programs.run("pg_ctl", "stop", "-D", cluster.data_directory)


def test_read_only_mount_and_own_read_only_directory_say_the_same(
    cluster: RunningCluster, os_user: OsUser, tde_command
) -> None:
    keystore = cluster.keystore.path
    for path in [keystore, *keystore.rglob("*")]:
        os.chown(path, os_user.uid, os_user.gid)
        path.chmod(0o500 if path.is_dir() else 0o400)
    entries = len(read_key_log(keystore).entries)
    opened = tde_command("keystore", "list", "-k", keystore)
    assert "wal" in opened.stdout
    assert "read-only" in opened.stderr
    assert len(read_key_log(keystore).entries) == entries
    refused = tde_command("keystore", "rotate", "-k", keystore, *BY_FD, exit_code=5)
    assert "is read-only" in refused.stderr
