"""Clusters on real servers of every installed version: create, start, use, stop, restart."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tde.algorithms import Algorithm
from tde.errors import (
    NoDataDirectoryError,
    ProgramError,
    ServerNotRunningError,
    ServerStartError,
    ServerStopError,
)
from tde.postgres import Cluster, Scope, io_counters, is_interposed
from tde.postgres.server import launch
from tde.postgres.server.interposer import GUARD_FILE
from tde.postgres.server.os_user import run_as
from tests.postgres.canaries import CANARY, files_with
from tests.postgres.cluster_copies import base_backup, open_copy


def test_a_plain_cluster_runs_as_without_tde(binaries, encrypted_cluster_factory):
    made = encrypted_cluster_factory.plain(binaries)
    version = int(made.query("SHOW server_version_num")[0][0])
    assert version // 10000 == binaries.major
    assert made.query("SHOW data_checksums") == [("on",)]
    pid = made.cluster.pid
    assert pid is not None
    assert not is_interposed(pid)
    assert io_counters(pid) is None
    status = made.cluster.status()
    assert (status.running, status.ready, status.encrypted) == (True, True, False)
    made.cluster.stop()
    assert made.cluster.pid is None
    assert not made.cluster.status().running


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_an_encrypted_cluster_reports_what_protects_it(
    binaries, encrypted_cluster_factory, algorithm
):
    made = encrypted_cluster_factory(binaries, algorithm=algorithm)
    assert made.query("SHOW data_checksums") == [("on",)]
    made.query("CREATE TABLE t AS SELECT g, 'canary-' || g AS v FROM generate_series(1, 20000) g")
    made.query("CHECKPOINT")
    status = made.cluster.status()
    assert status.interposed is True
    assert status.encrypted
    assert status.ready
    assert status.data_checksums
    assert status.protections == dict.fromkeys(("WAL", "pg_default", "pg_global"), algorithm.label)
    assert status.tablespaces_without_key == []
    assert status.counters is not None
    assert status.counters.relation_bytes_encrypted >= 20000 * 20
    assert status.counters.wal_bytes_encrypted >= 20000 * 20
    # The same document as `tde pg status --json`.
    assert json.loads(json.dumps(status.as_json()))["keystore_uuid"] == made.keystore.uuid.hex
    made.cluster.restart(made.keystore)
    assert made.query("SELECT count(*), max(v) FROM t") == [(20000, "canary-9999")]
    assert made.query("SHOW shared_buffers") == [("16MB",)]  # The restart kept the options.


def test_recovers_after_immediate_stop(binaries, encrypted_cluster_factory):
    made = encrypted_cluster_factory(binaries)
    made.query("CREATE TABLE t AS SELECT generate_series(1, 1000) AS g")
    made.cluster.stop("immediate")
    made.start()
    assert made.query("SELECT sum(g) FROM t") == [(500500,)]


def test_scope_tablespaces_leaves_built_in_ones_plain(binaries, encrypted_cluster_factory):
    made = encrypted_cluster_factory(binaries, scope=Scope.TABLESPACES, algorithm=Algorithm.AES128)
    made.query("CREATE TABLE t AS SELECT 'visible-canary' AS v FROM generate_series(1, 10)")
    path = made.query("SELECT pg_relation_filepath('t')")[0][0]
    made.query("CHECKPOINT")
    assert b"visible-canary" in (made.data_directory / path).read_bytes()
    assert made.cluster.status().protections == {
        "WAL": "AES-128-XTS",
        "pg_default": "plaintext",
        "pg_global": "plaintext",
    }


def test_stock_server_refuses_and_names_tde(binaries, encrypted_cluster_factory):
    made = encrypted_cluster_factory(binaries, start=False)
    control = made.data_directory / "global" / "pg_control"
    before = control.read_bytes()
    result = run_as(
        made.cluster.os_user,
        [made.cluster.binaries.program("postgres"), "-D", made.data_directory],
        timeout=30,
    )
    assert result.returncode != 0
    assert GUARD_FILE in result.stderr
    assert control.read_bytes() == before
    assert not (made.data_directory / GUARD_FILE).exists()


def test_reload_keeps_the_guard_satisfied(binaries, encrypted_cluster_factory):
    made = encrypted_cluster_factory(binaries)
    made.query("ALTER SYSTEM SET work_mem = '5MB'")
    made.query("SELECT pg_reload_conf()")
    # The server reports a file that it cannot include as an error without a setting.
    query = "SELECT sourcefile, error FROM pg_file_settings WHERE error IS NOT NULL"
    assert made.query(f"{query} AND name IS NULL") == []
    assert made.query("SHOW work_mem") == [("5MB",)]


def test_keys_do_not_reach_the_servers_children(binaries, encrypted_cluster_factory):
    made = encrypted_cluster_factory(binaries)
    made.query("CREATE TABLE output(line text)")
    made.query("COPY output FROM PROGRAM 'env; ls -l /proc/self/fd'")
    lines = [row[0] for row in made.query("SELECT line FROM output")]
    assert any(line.startswith("PATH=") for line in lines)
    # What tests accept lies in a directory of their own (tests/conftest.py); no key is there.
    lines = [line for line in lines if not line.startswith("TDE_ACCEPTED=")]
    assert not [line for line in lines if "LD_PRELOAD" in line or "TDE_" in line]
    assert not [line for line in lines if "memfd" in line]


def test_start_reports_the_servers_log(any_binaries, encrypted_cluster_factory):
    made = encrypted_cluster_factory.plain(any_binaries, start=False)
    with pytest.raises(ServerStartError, match=r"shared_preload_libraries|nosuchlibrary"):
        made.start({"shared_preload_libraries": "nosuchlibrary"})
    assert made.cluster.pid is None


def test_an_option_that_cannot_be_used_is_told_as_one(any_binaries, encrypted_cluster_factory):
    made = encrypted_cluster_factory(any_binaries, start=False)
    with pytest.raises(ProgramError, match="banana") as caught:
        made.cluster.start(made.keystore, server_arguments=["-c", "shared_buffers=banana"])
    assert "-c shared_buffers=banana" in caught.value.remedy
    assert "Correct the configuration files" not in caught.value.remedy
    with (made.data_directory / "postgresql.conf").open("a") as configuration:
        configuration.write("work_mem = apple\n")
    with pytest.raises(ProgramError, match="apple") as caught:
        made.start()
    assert caught.value.remedy == f"Correct the configuration files in {made.data_directory}."


def test_a_log_that_cannot_be_written_is_told_as_one(any_binaries, encrypted_cluster_factory):
    made = encrypted_cluster_factory(any_binaries, start=False)
    log = Path("/nowhere/server.log")
    with pytest.raises(ServerStartError) as caught:
        made.start(log=log)
    assert "The whole log" not in caught.value.remedy
    assert f"cannot write the log {log}" in caught.value.remedy


def test_a_second_start_is_refused(any_binaries, encrypted_cluster_factory):
    made = encrypted_cluster_factory.plain(any_binaries)
    with pytest.raises(ServerStartError, match="already running"):
        made.start()


def test_a_stop_without_a_server_is_an_error(any_binaries, encrypted_cluster_factory):
    made = encrypted_cluster_factory.plain(any_binaries, start=False)
    with pytest.raises(ServerNotRunningError):
        made.cluster.stop()
    with pytest.raises(ServerNotRunningError):
        made.cluster.connection_parameters()


def test_pg_ctl_that_hangs_is_a_failed_stop(any_binaries, encrypted_cluster_factory, monkeypatch):
    made = encrypted_cluster_factory.plain(any_binaries)

    def hang(_: object, command: list[str], *, timeout: float) -> None:
        raise subprocess.TimeoutExpired(command, timeout)

    with monkeypatch.context() as patched:
        patched.setattr(launch, "run_as", hang)
        with pytest.raises(ServerStopError, match="does not return"):
            made.cluster.stop()
    made.cluster.stop()


def test_a_missing_data_directory_is_an_error(os_user_tmp_path: Path):
    cluster = Cluster(os_user_tmp_path / "missing")
    for operation in (cluster.status, cluster.stop, lambda: cluster.start(None)):
        with pytest.raises(NoDataDirectoryError):
            operation()


def test_environment_reaches_the_server(any_binaries, encrypted_cluster_factory):
    made = encrypted_cluster_factory.plain(any_binaries, start=False)
    made.start(environment={"OPENSSL_ia32cap": "~0x200000200000000"})
    made.query("CREATE TABLE output(line text)")
    made.query("COPY output FROM PROGRAM 'env'")
    lines = [row[0] for row in made.query("SELECT line FROM output")]
    assert "OPENSSL_ia32cap=~0x200000200000000" in lines


def test_configured_socket_directory_is_kept(
    any_binaries, encrypted_cluster_factory, os_user_tmp_path
):
    made = encrypted_cluster_factory.plain(any_binaries, start=False)
    configured = os_user_tmp_path / "sockets"
    configured.mkdir()
    if made.cluster.os_user is not None:
        os.chown(configured, made.cluster.os_user.uid, made.cluster.os_user.gid)
    with (made.data_directory / "postgresql.conf").open("a") as file:
        file.write(f"unix_socket_directories = '{configured}'\n")
    made.start()
    assert made.cluster.connection_parameters()["host"] == str(configured)


def test_private_socket_directory_is_removed(any_binaries, encrypted_cluster_factory):
    made = encrypted_cluster_factory.plain(any_binaries)
    directory = Path(str(made.cluster.connection_parameters()["host"]))
    assert directory.stat().st_mode & 0o077 == 0
    made.cluster.restart(None)
    assert made.cluster.connection_parameters()["host"] == str(directory)
    made.cluster.stop()
    assert not directory.exists()


def test_base_backup_is_encrypted_and_starts(binaries, encrypted_cluster_factory, os_user_tmp_path):
    made = encrypted_cluster_factory(binaries, options={"wal_level": "replica"})
    made.query(f"CREATE TABLE t AS SELECT '{CANARY.decode()}' FROM generate_series(1, 999)")
    target = os_user_tmp_path / "backup"
    base_backup(made, target)
    assert files_with(CANARY, target) == []
    made.cluster.stop()
    restored = open_copy(encrypted_cluster_factory, made, target, made.keystore)
    restored.start()
    assert restored.query("SELECT count(*) FROM t") == [(999,)]


def test_a_directory_that_somebody_has_moved_away_does_not_stop_the_start(
    any_binaries, encrypted_cluster_factory
):
    """The start ended in "names neither a relation file nor a WAL segment"."""
    made = encrypted_cluster_factory(any_binaries, start=False)
    base = made.data_directory / "base"
    shutil.copytree(base / "1", base / "16384.away")
    made.start()
    assert made.query("SELECT 1") == [(1,)]


def test_a_server_that_ends_by_itself_at_the_same_moment_is_not_said_to_run(
    any_binaries, encrypted_cluster_factory, os_user
):
    """A standby may be ready, and then replay what it has no key for."""
    made = encrypted_cluster_factory(any_binaries)
    pid = made.cluster.pid
    made.cluster.stop()
    place = (made.data_directory, any_binaries, os_user)
    launch.stop_server(*place, mode="fast", timeout=10)
    with pytest.raises(ServerStartError, match="ended just after its start"):
        launch.require_interposer(*place, pid)
