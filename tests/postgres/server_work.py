"""What the tests of encrypted servers share: canaries, base backups, load."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tde.keystore import Keystore
from tde.postgres import Cluster, run_program

if TYPE_CHECKING:
    from tests.conftest import ClusterFactory, RunningCluster

# Long and improbable, and in every row that a test writes.
CANARY = b"canary-9f6c1d0b-in-plain-sight"


def files_with(needle: bytes, *directories: Path) -> list[Path]:
    """Return every file below the directories that holds these bytes anywhere."""
    found = []
    for directory in directories:
        for path in sorted(directory.rglob("*")):
            if path.is_file() and not path.is_symlink() and _holds(path, needle):
                found.append(path)
    return found


def _holds(path: Path, needle: bytes) -> bool:
    if path.stat().st_size == 0:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return data.find(needle) >= 0


def make_directory(cluster: RunningCluster, path: Path) -> Path:
    """Make a directory that belongs to the server's user, for a tablespace made in SQL."""
    path.mkdir()
    user = cluster.cluster.os_user
    if user is not None:
        os.chown(path, user.uid, user.gid)
    return path


def settle(cluster: RunningCluster) -> None:
    """Bring everything that the server holds in memory to its files."""
    cluster.query("CHECKPOINT")
    cluster.query("SELECT pg_switch_wal()")
    cluster.query("CHECKPOINT")


def base_backup(
    primary: RunningCluster,
    target: Path,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Take a base backup under the interposer, as ``tde pg exec pg_basebackup`` does."""
    parameters = primary.cluster.connection_parameters()
    run = run_program(
        primary.cluster.binaries,
        "pg_basebackup",
        [
            *("-h", str(parameters["host"]), "-p", str(parameters["port"])),
            *("-U", str(parameters["user"]), "-D", str(target), "--checkpoint=fast", "--no-sync"),
            *arguments,
        ],
        keystore=primary.keystore,
        os_user=primary.cluster.os_user,
        environment=environment,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr


def open_copy(
    factory: ClusterFactory, primary: RunningCluster, directory: Path, keystore: Keystore | None
) -> RunningCluster:
    """Return a cluster object for a restored or standby data directory."""
    cluster = Cluster(directory, primary.cluster.binaries, os_user=primary.cluster.os_user)
    return replace(primary, cluster=factory.track(cluster), keystore=keystore)


def configure(cluster: RunningCluster, settings: Iterable[str]) -> None:
    """Append settings to postgresql.auto.conf of a stopped cluster."""
    with (cluster.data_directory / "postgresql.auto.conf").open("a") as file:
        file.writelines(f"{line}\n" for line in settings)


def pgbench(cluster: RunningCluster, *arguments: str, timeout: float = 120) -> None:
    """Run pgbench to its end and expect success."""
    parameters = cluster.cluster.connection_parameters()
    run = run_program(
        cluster.cluster.binaries,
        "pgbench",
        [
            *("-h", str(parameters["host"]), "-p", str(parameters["port"])),
            *("-U", str(parameters["user"]), *arguments, "postgres"),
        ],
        os_user=cluster.cluster.os_user,
        timeout=timeout,
    )
    assert run.returncode == 0, run.stderr


def tpcb_sums(cluster: RunningCluster) -> set[int]:
    """Return the four sums that TPC-B keeps equal; a set of one when they are."""
    row = cluster.query(
        "SELECT (SELECT sum(abalance) FROM pgbench_accounts),"
        " (SELECT sum(bbalance) FROM pgbench_branches),"
        " (SELECT sum(tbalance) FROM pgbench_tellers),"
        " (SELECT coalesce(sum(delta), 0) FROM pgbench_history)"
    )[0]
    return set(row)
