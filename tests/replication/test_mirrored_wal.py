"""``tde pg mirror-wal``: when all of pg_wal is lost, what was acknowledged is in the mirror."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.backup.conftest import make_directory_for
from tests.conftest import RunningCluster
from tests.postgres.canaries import CANARY, files_with
from tests.postgres.crashes.file_rewrites import kill_server
from tests.replication.test_keys_on_standbys import wait_for

TDE = Path(sys.executable).with_name("tde")


@contextmanager
def mirroring(made: RunningCluster, directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run the mirror until it streams, and then as long as the block."""
    command = [TDE, "pg", "mirror-wal", "-D", made.data_directory, "--to", directory]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        wait_for(lambda: made.query("SELECT sync_state FROM pg_stat_replication") == [("sync",)])
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def test_a_lost_pg_wal_comes_back(
    binaries, encrypted_cluster_factory, os_user_tmp_path: Path, os_user, tde_command
) -> None:
    made = encrypted_cluster_factory(binaries)
    made.keystore.enable_auto_open()
    directory = make_directory_for(os_user, os_user_tmp_path / "mirror")
    made.query("CREATE TABLE t (n int, x text)")
    with mirroring(made, directory) as mirror:
        for number in range(55):
            made.query(f"INSERT INTO t VALUES ({number}, '{CANARY.decode()}')")
        kill_server(made.cluster.pid)
        # It goes on without a server, and tries again.
        assert mirror.poll() is None
    assert files_with(CANARY, directory) == []
    wal = made.data_directory / "pg_wal"
    shutil.rmtree(wal)
    restore = ("pg", "restore-mirror", "-D", made.data_directory, "--from", directory)
    assert "Copied" in tde_command(*restore).stdout
    assert "is not lost" in tde_command(*restore, exit_code=1).stderr
    made.start({"synchronous_standby_names": ""})
    assert made.query("SELECT count(*) FROM t") == [(55,)]


def test_a_mirror_without_a_directory_gets_no_slot(
    any_binaries, encrypted_cluster_factory, os_user_tmp_path: Path, tde_command
) -> None:
    """The accident: the slot was there, kept WAL for ever, and nothing was ever written."""
    made = encrypted_cluster_factory(any_binaries)
    directory = os_user_tmp_path / "missing"
    command = ("pg", "mirror-wal", "-D", made.data_directory, "--to", directory)
    refused = tde_command(*command, "--passphrase-fd", "0", exit_code=1)
    assert "is no directory that" in refused.stderr
    assert f"-m 700 {directory}" in " ".join(refused.stderr.split())
    assert made.query("SELECT count(*) FROM pg_replication_slots") == [(0,)]


def test_a_mirror_without_the_beginning_is_refused(
    any_binaries, encrypted_cluster_factory, os_user_tmp_path: Path, os_user, tde_command
) -> None:
    made = encrypted_cluster_factory(any_binaries)
    made.cluster.stop("immediate")
    directory = make_directory_for(os_user, os_user_tmp_path / "mirror")
    (directory / "0000000100000000000000FF").write_bytes(b"x")
    wal = made.data_directory / "pg_wal"
    wal.rename(wal.with_name("pg_wal.lost"))
    refused = tde_command(
        *("pg", "restore-mirror", "-D", made.data_directory, "--from", directory), exit_code=1
    )
    assert "where recovery begins" in refused.stderr
    assert not wal.exists()


def test_a_gap_in_the_mirror_is_no_end(
    any_binaries, encrypted_cluster_factory, os_user_tmp_path: Path, os_user, tde_command
) -> None:
    """The accident: recovery takes a missing segment for the end, and says nothing."""
    made = encrypted_cluster_factory(any_binaries)
    made.keystore.enable_auto_open()
    directory = make_directory_for(os_user, os_user_tmp_path / "mirror")
    with mirroring(made, directory):
        made.query("CREATE TABLE t (n int)")
        for number in range(3):
            made.query(f"INSERT INTO t VALUES ({number})")
            made.query("SELECT pg_switch_wal()")
        made.query("INSERT INTO t VALUES (3)")
        kill_server(made.cluster.pid)
    segments = sorted(path for path in directory.iterdir() if path.name.startswith("0000"))
    assert len(segments) >= 3
    segments[-2].unlink()
    shutil.rmtree(made.data_directory / "pg_wal")
    restore = ("pg", "restore-mirror", "-D", made.data_directory, "--from", directory)
    assert "not the segment before it" in tde_command(*restore, exit_code=1).stderr
