"""Base backups, clusters made of them, and the directories and settings that they need."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tde.keystore import Keystore
from tde.postgres import Cluster, run_program

if TYPE_CHECKING:
    from tests.conftest import ClusterFactory, RunningCluster


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


def make_directory(cluster: RunningCluster, path: Path) -> Path:
    """Make a directory that belongs to the server's user, for a tablespace made in SQL."""
    path.mkdir()
    user = cluster.cluster.os_user
    if user is not None:
        os.chown(path, user.uid, user.gid)
    return path
