"""Bringing a server back as a standby of the one that has taken its place, with pg_rewind.

pg_rewind copies only what differs, and it wants a cluster that was shut down, without the signal
files of a start that has failed. It works in both directions, so the one that loses is told from
the one that wins here. Whatever fails, but for a kill or a power cut in the middle, leaves
standby.signal behind: such a server starts as a standby, or not at all, and never as a second
primary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tde.errors import ProgramError, ReplicationError
from tde.postgres.cluster.configuration import configuration_arguments
from tde.postgres.cluster.keys_of_pages import require_keys_of_stopped
from tde.postgres.cluster.landed_keys import ensure_map_of_stopped
from tde.postgres.cluster.lock import cluster_lock
from tde.postgres.facts import CLEAN_STATES
from tde.postgres.server.control import ControlData, read_control_data
from tde.postgres.server.owned_files import write_owned_file
from tde.postgres.server.pidfile import read_server_arguments
from tde.postgres.server.program import run_program
from tde.postgres.server.sockets import private_directory, split_socket_argument
from tde.replication.slots import replication_slot
from tde.replication.source import Source
from tde.replication.standby import StandbyOptions, set_slot

if TYPE_CHECKING:
    from tde.keystore import Keystore
    from tde.postgres.cluster.cluster import Cluster

STANDBY_SIGNAL = "standby.signal"

_OPTIONS_FILE = "postmaster.opts"
_CHECKPOINT_SECONDS = 600
# Since then pg_rewind knows the other server's timeline before its first checkpoint has ended.
_KNOWS_TIMELINE = 16
# Recovering such a server by itself would write WAL that its primary has not.
_OF_STANDBY = "in archive recovery"
_MAKE_AGAIN = (
    "Repeat the command with --base-backup: it makes the server again, and keeps what it has "
    "beside."
)


def read_control(cluster: Cluster) -> ControlData:
    """Return what pg_control of a cluster says.

    Raises:
        ProgramError: it cannot be read.
    """
    return read_control_data(cluster.data_directory, cluster.binaries, cluster.os_user)


def require_same_cluster(cluster: Cluster, source: Source) -> None:
    """Check that a stopped server and the one that it shall follow were the same cluster once.

    Raises:
        ReplicationError: they were not, or the other one follows somebody itself.
        ProgramError: pg_control cannot be read.
    """
    own = read_control(cluster)
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


def require_older(cluster: Cluster, source: Source) -> None:
    """Check that the server that loses what only it has is the one that was replaced.

    Raises:
        ReplicationError: it is the newer one.
        ProgramError: pg_control cannot be read.
    """
    own = read_control(cluster)
    timeline = int(own.redo_segment[:8], 16)
    if (timeline, own.checkpoint) <= (source.timeline, source.position):
        return
    if timeline == source.timeline:
        return  # A primary that nobody has replaced yet; pg_rewind has nothing to compare.
    raise ReplicationError(
        f"{cluster.data_directory} is on timeline {timeline}, and {source.server.name} on "
        f"{source.timeline}: the server here was promoted later, and would lose all since then",
        remedy="Rejoin the other one to this one. If this one is really to be given up, say so "
        "with --to-older-timeline.",
    )


def last_arguments(cluster: Cluster) -> tuple[list[str], bool]:
    """Return the arguments of the last start, and whether it had the socket that psql looks for."""
    given = read_server_arguments(cluster.data_directory)
    if not given:
        return [], True
    private = private_directory(cluster.data_directory, cluster.os_user)
    return split_socket_argument(given, private)


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
        ServerStartError: it runs.
        ProgramError: recovery after a crash or pg_rewind has failed.
        ReplicationError: it was a standby that has crashed, or the primary refuses a checkpoint or
            a slot.
        KeyMapError, KeystoreError: keys do not fit.
    """
    directory = cluster.data_directory
    if keystore is not None:
        ensure_map_of_stopped(directory, keystore, cluster.os_user)
        require_keys_of_stopped(directory, keystore)
    with cluster_lock(directory):
        cluster.require_stopped()
        state = read_control(cluster).state
        if state == _OF_STANDBY:
            raise ReplicationError(
                f"{directory} was a standby when it stopped, and not a primary",
                remedy=f"Start it, and it goes on: tde pg start -D {directory}. To follow another "
                f"server, change its primary_conninfo. {_MAKE_AGAIN}",
            )
        with _starts_as_standby_only(cluster), _arguments_kept(cluster):
            _recover(cluster, keystore)
            if source.major < _KNOWS_TIMELINE:
                source.server.tell("CHECKPOINT", seconds=_CHECKPOINT_SECONDS)
            with replication_slot(source.server, options.slot):
                said = _run_pg_rewind(cluster, source, keystore, options.name, from_archive)
            if state not in CLEAN_STATES and "no rewind required" in said:
                # It has just written WAL of its own, so it cannot be where the other one is.
                raise ProgramError(
                    f"{directory} had crashed before the other server was promoted, and cannot be "
                    "brought to where that is",
                    remedy=_MAKE_AGAIN,
                )
            set_slot(cluster, options.slot)


@contextmanager
def _starts_as_standby_only(cluster: Cluster) -> Iterator[None]:
    """Keep whatever is left from becoming a second primary.

    pg_rewind, and the recovery before it, want no signal files; in the end there is one.
    """
    directory = cluster.data_directory
    for name in (STANDBY_SIGNAL, "recovery.signal"):
        (directory / name).unlink(missing_ok=True)
    try:
        yield
    except BaseException:
        write_owned_file(directory / STANDBY_SIGNAL, "", cluster.os_user)
        raise


@contextmanager
def _arguments_kept(cluster: Cluster) -> Iterator[None]:
    """Keep the arguments of the last start, which pg_rewind removes."""
    file = cluster.data_directory / _OPTIONS_FILE
    content = file.read_bytes() if file.is_file() else None
    try:
        yield
    finally:
        if content is not None:
            write_owned_file(file, content, cluster.os_user)


def _recover(cluster: Cluster, keystore: Keystore | None) -> None:
    """Recover a server that was not shut down, with nobody connected, as pg_rewind would do.

    A single-user server archives nothing: its last WAL is of a timeline that has ended.
    """
    if read_control(cluster).state in CLEAN_STATES:
        return
    arguments = ["--single", "-D", str(cluster.data_directory)]
    arguments += [*configuration_arguments(cluster.data_directory, ()), "template1"]
    said = _run(cluster, "postgres", arguments, keystore)
    if read_control(cluster).state not in CLEAN_STATES:
        raise ProgramError(
            f"{cluster.data_directory} was not shut down, and cannot be recovered by itself: "
            f"{said}",
            remedy=_MAKE_AGAIN,
        )


def _run_pg_rewind(
    cluster: Cluster, source: Source, keystore: Keystore | None, name: str, from_archive: bool
) -> str:
    database = source.server.parameters.get("dbname", "postgres")
    connection = source.server.conninfo(dbname=database, application_name=name)
    arguments = ["-R", "--target-pgdata", str(cluster.data_directory)]
    arguments += ["--source-server", connection, "--no-ensure-shutdown"]
    arguments += ["-c"] if from_archive else []
    said = _run(cluster, "pg_rewind", arguments, keystore)
    # The last thing that it does.
    if not (cluster.data_directory / STANDBY_SIGNAL).exists():
        raise ProgramError(
            f"pg_rewind cannot bring {cluster.data_directory} to where {source.server.name} is: "
            f"{said}",
            remedy=f"Do not start it: it may be half of both. {_MAKE_AGAIN}",
        )
    return said


def _run(
    cluster: Cluster, program: str, arguments: Sequence[str], keystore: Keystore | None
) -> str:
    """Run a program and return what it has said; its failure shows in what it should have done."""
    done = run_program(
        cluster.binaries,
        program,
        arguments,
        keystore=keystore,
        os_user=cluster.os_user,
        environment={"LC_ALL": "C"},
    )
    return f"status {done.returncode}: {done.stderr.strip()} {done.stdout.strip()}"
