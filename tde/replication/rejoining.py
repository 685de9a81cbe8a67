"""Bringing a server back as a standby of the one that has taken its place.

pg_rewind copies only what differs, and it wants a cluster that was shut down, without the signal
files of a start that has failed. Where it cannot, because WAL is gone or keys differ, the server is
made again from a base backup, and what it had is kept beside.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tde.errors import DataDirectoryError, ProgramError, ReplicationError
from tde.postgres.cluster.configuration import configuration_arguments
from tde.postgres.cluster.keys_of_pages import require_keys_of_stopped
from tde.postgres.cluster.landed_keys import ensure_map_of_stopped
from tde.postgres.cluster.lock import cluster_lock
from tde.postgres.facts import CLEAN_STATES
from tde.postgres.server.config_files import AUTOMATIC_FILE
from tde.postgres.server.control import read_control_data
from tde.postgres.server.owned_files import append_to_file
from tde.postgres.server.pidfile import read_server_arguments
from tde.postgres.server.program import run_program
from tde.postgres.server.sockets import private_directory, split_socket_argument
from tde.replication.slots import replication_slot
from tde.replication.source import Source
from tde.replication.standby import StandbyOptions, make_standby

if TYPE_CHECKING:
    from tde.keystore import Keystore
    from tde.postgres.cluster.cluster import Cluster

SIGNALS = ("standby.signal", "recovery.signal")
_CHECKPOINT_SECONDS = 600
# Since then pg_rewind knows the other server's timeline before its first checkpoint has ended.
_KNOWS_TIMELINE = 16


def require_same_cluster(cluster: Cluster, source: Source) -> None:
    """Check that a stopped server and the one that it shall follow were the same cluster once.

    Raises:
        ReplicationError: they were not, or the other one follows somebody itself.
        ProgramError: pg_control cannot be read.
    """
    own = read_control_data(cluster.data_directory, cluster.binaries, cluster.os_user)
    if own.system_identifier != source.system_identifier:
        raise ReplicationError(
            f"{cluster.data_directory} and the server {source.server.name} are different clusters "
            f"(system identifiers {own.system_identifier} and {source.system_identifier})",
            remedy="Name the primary that has taken its place with --primary.",
        )
    if source.is_standby:
        raise ReplicationError(
            f"the server {source.server.name} is a standby, so {cluster.data_directory} cannot be "
            "brought to where it is",
            remedy="Name the primary with --primary, or promote that one first (tde pg promote).",
        )


def last_arguments(cluster: Cluster) -> tuple[list[str], bool]:
    """Return the arguments of the last start, and whether it had the socket that psql looks for."""
    private = private_directory(cluster.data_directory, cluster.os_user)
    return split_socket_argument(read_server_arguments(cluster.data_directory), private)


def rewind(
    cluster: Cluster,
    source: Source,
    keystore: Keystore | None,
    options: StandbyOptions,
    *,
    from_archive: bool = False,
) -> None:
    """Bring a stopped server to where a primary is, and make it its standby; it is left stopped.

    Args:
        from_archive: WAL that this server lacks comes from its restore_command.

    Raises:
        ProgramError: recovery after a crash or pg_rewind has failed.
        ReplicationError: the primary refuses a checkpoint or a slot.
        KeyMapError, KeystoreError: keys do not fit.
    """
    directory = cluster.data_directory
    if keystore is not None:
        ensure_map_of_stopped(directory, keystore, cluster.os_user)
        require_keys_of_stopped(directory, keystore)
    with cluster_lock(directory):
        _remove_signals(directory)
        _recover(cluster, keystore)
        if source.major < _KNOWS_TIMELINE:
            source.server.tell("CHECKPOINT", seconds=_CHECKPOINT_SECONDS)
        with replication_slot(source.server, options.slot):
            _run_pg_rewind(cluster, source, keystore, options.name, from_archive)
        if options.slot:
            line = f"primary_slot_name = '{options.slot}'\n"
            append_to_file(directory / AUTOMATIC_FILE, line, cluster.os_user)


def make_again(
    cluster: Cluster, source: Source, keystore: Keystore | None, options: StandbyOptions
) -> Path:
    """Make a server again from a base backup; return where its old directory is now.

    Raises:
        DataDirectoryError: the old one cannot be moved aside, as a mount point.
        ProgramError, ReplicationError: as :func:`make_standby`; the old one is back in its place.
    """
    directory = cluster.data_directory
    aside = directory.with_name(f"{directory.name}.before-{time.strftime('%Y%m%d-%H%M%S')}")
    try:
        directory.rename(aside)
    except OSError as error:
        raise DataDirectoryError(
            f"{directory} cannot be moved to {aside}: {error.strerror}",
            remedy="Below a mount point, or in a directory that the server's user may not write, "
            "move or remove what it has by hand, and make it again: tde pg standby",
        ) from error
    try:
        make_standby(cluster, source, keystore, options)
    except BaseException:
        with suppress(OSError):
            aside.rename(directory)
        raise
    return aside


def _remove_signals(directory: Path) -> None:
    """Remove what a start as a standby has left: pg_rewind does not start such a server."""
    for name in SIGNALS:
        (directory / name).unlink(missing_ok=True)


def _recover(cluster: Cluster, keystore: Keystore | None) -> None:
    """Recover a server that was not shut down, with nobody connected, as pg_rewind would do.

    A single-user server archives nothing: its last WAL is of a timeline that has ended.
    """
    state = read_control_data(cluster.data_directory, cluster.binaries, cluster.os_user).state
    if state in CLEAN_STATES:
        return
    arguments = ["--single", "-D", str(cluster.data_directory)]
    arguments += [*configuration_arguments(cluster.data_directory, ()), "template1"]
    done = _run(cluster, "postgres", arguments, keystore)
    after = read_control_data(cluster.data_directory, cluster.binaries, cluster.os_user).state
    if after not in CLEAN_STATES:
        raise ProgramError(
            f"{cluster.data_directory} was not shut down, and cannot be recovered by itself: "
            f"{done}",
            remedy="Make it again from a base backup: repeat the command with --base-backup.",
        )


def _run_pg_rewind(
    cluster: Cluster, source: Source, keystore: Keystore | None, name: str, from_archive: bool
) -> None:
    database = source.server.parameters.get("dbname", "postgres")
    connection = source.server.conninfo(dbname=database, application_name=name)
    arguments = ["-R", "--target-pgdata", str(cluster.data_directory)]
    arguments += ["--source-server", connection, "--no-ensure-shutdown"]
    arguments += ["-c"] if from_archive else []
    said = _run(cluster, "pg_rewind", arguments, keystore)
    if not (cluster.data_directory / "standby.signal").exists():
        raise ProgramError(
            f"pg_rewind cannot bring {cluster.data_directory} to where {source.server.name} is: "
            f"{said}",
            remedy="Repeat the command with --base-backup: it makes the server again, and keeps "
            "what it has beside.",
        )


def _run(
    cluster: Cluster, program: str, arguments: Sequence[str], keystore: Keystore | None
) -> str:
    """Run a program and return what it has said; its failure shows in what it should have done."""
    done = run_program(
        cluster.binaries, program, arguments, keystore=keystore, os_user=cluster.os_user
    )
    return f"status {done.returncode}: {(done.stderr or done.stdout).strip()}"
