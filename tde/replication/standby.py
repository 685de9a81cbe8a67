"""Making a standby: keys are compared, a slot is made, a base backup is taken, the server starts.

The order is that of what it costs when it fails.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tde.errors import ProgramError, ReplicationError
from tde.postgres.cluster.initialize import prepared_directory, remove_files
from tde.postgres.cluster.questions import ask_server
from tde.postgres.server.config_files import AUTOMATIC_FILE
from tde.postgres.server.os_user import OsUser, can_access, name_of_user
from tde.postgres.server.owned_files import append_to_file
from tde.postgres.server.program import run_program
from tde.replication.names import require_slot_name, require_standby_name
from tde.replication.slots import replication_slot
from tde.replication.source import Source

if TYPE_CHECKING:
    from tde.keystore import Keystore
    from tde.postgres.cluster.cluster import Cluster

_LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class StandbyOptions:
    """What a standby shall be.

    Attributes:
        name: its application_name, by which synchronous_standby_names knows it.
        slot: replication slot that keeps WAL for it; made where there is none.
        rate: of pg_basebackup, for example ``50M``; empty for as fast as it goes.
        mapping: directories of tablespaces there, and where they shall be here.
    """

    name: str
    slot: str = ""
    rate: str = ""
    mapping: Sequence[tuple[Path, Path]] = ()


def require_possible(cluster: Cluster, source: Source, options: StandbyOptions) -> None:
    """Check all that can be checked before anything is made.

    Raises:
        ReplicationError: it is not possible.
    """
    if cluster.binaries.major != source.major:
        raise ReplicationError(
            f"the server {source.server.name} is PostgreSQL {source.major}, and the programs in "
            f"{cluster.binaries.bindir} are {cluster.binaries.version_text}",
            remedy=f"Name the directory of PostgreSQL {source.major} with --bindir.",
        )
    require_slot_name(options.slot)
    require_standby_name(options.name)
    for old, new in options.mapping:
        require_free(old, new)
    moved = {old for old, _ in options.mapping}
    for place in source.places:
        if place not in moved:
            _require_makeable(place, cluster.os_user)


def _require_makeable(place: Path, os_user: OsUser | None) -> None:
    """Refuse a tablespace that pg_basebackup could not make, before hours of copying.

    Root does not make it: who runs the other server has chosen the path.
    """
    there = next(path for path in (place, *place.parents) if path.exists())
    if there != place and not can_access(os_user, there, "-w"):
        raise ReplicationError(
            f"{name_of_user(os_user)} cannot make the directory of a tablespace, {place}: it may "
            f"not write to {there}",
            remedy=f"Make it: install -d -o {name_of_user(os_user)} -m 700 {place}. Or name "
            f"another place: -T {place}=NEW.",
        )


def require_free(old: Path, new: Path) -> None:
    """Refuse a place for a tablespace that has anything in it: it is somebody's."""
    if not (old.is_absolute() and new.is_absolute()):
        raise ReplicationError(f"{old}={new}: both have to be absolute paths")
    if "=" in f"{old}{new}":
        raise ReplicationError(f"{old}={new}: there may be no other equals sign in it")
    if new.exists() and (not new.is_dir() or any(new.iterdir())):
        raise ReplicationError(
            f"{new} is not empty, and cannot become the place of a tablespace",
            remedy="Name another one, which is new or empty.",
        )


def make_standby(
    cluster: Cluster, source: Source, keystore: Keystore | None, options: StandbyOptions
) -> None:
    """Take a base backup of a server into the directory of a standby, which is left stopped.

    What pg_basebackup says of its progress goes where this process's own output goes.

    Args:
        cluster: the new one; its directory is made, or empty.
        keystore: open, with the keys of the server; None where it is not encrypted.

    Raises:
        DataDirectoryError: the directory is not empty.
        ProgramError: pg_basebackup has failed. What it has made is removed, but for tablespaces
            that have no place of their own in the options.
        ReplicationError: a place for a tablespace is not empty, or the server refuses a slot.
    """
    arguments = ["-D", str(cluster.data_directory), "-X", "stream", "-c", "fast", "-R", "-P", "-w"]
    connection = source.server.conninfo(application_name=options.name)
    arguments += ["-d", connection]
    if options.slot:
        arguments += ["-S", options.slot]
    if options.rate:
        arguments += ["-r", options.rate]
    for old, new in options.mapping:
        require_free(old, new)
        arguments += ["-T", f"{old}={new}"]
    with (
        prepared_directory(cluster.data_directory, cluster.os_user),
        replication_slot(source.server, options.slot),
    ):
        try:
            run_base_backup(
                cluster,
                keystore,
                arguments,
                what=f"pg_basebackup of {source.server.name}",
                remedy="See what it says above; the log of the server there may say more. What it "
                "has made is removed, but for tablespaces that were not named with -T.",
            )
            set_slot(cluster, options.slot)
        except BaseException:
            # All of these were empty before. pg_basebackup takes nothing back when it is ended, and
            # never what it has put into tablespaces.
            made = [new for _, new in options.mapping if new.is_dir()]
            for directory in [cluster.data_directory, *made]:
                remove_files(directory, cluster.os_user)
            raise


def run_base_backup(
    cluster: Cluster, keystore: Keystore | None, arguments: Sequence[str], *, what: str, remedy: str
) -> None:
    """Run pg_basebackup, which says of its progress where this process says what it has to say.

    Args:
        what: names it in the error.
        remedy: what to do where it fails.

    Raises:
        ProgramError: it has failed.
    """
    done = run_program(
        cluster.binaries,
        "pg_basebackup",
        arguments,
        keystore=keystore,
        os_user=cluster.os_user,
        capture=False,
    )
    if done.returncode != 0:
        raise ProgramError(f"{what} has failed, with status {done.returncode}", remedy=remedy)


def set_slot(cluster: Cluster, slot: str) -> None:
    """Have a stopped standby use a slot, or none: its configuration may name that of another."""
    # What was written before may have no newline at its end.
    line = f"\nprimary_slot_name = '{slot}'\n"
    append_to_file(cluster.data_directory / AUTOMATIC_FILE, line, cluster.os_user)


def wait_until_streaming(
    cluster: Cluster,
    timeout: float,
    *,
    username: str | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Wait until a standby that has just started receives WAL from its server.

    A receiver says that it streams before the server has agreed, so it has to say so twice.

    Raises:
        ReplicationError: it does not in time; the standby goes on and tries.
    """
    deadline = clock() + timeout
    query = """SELECT coalesce((SELECT json_build_object('pid', pid, 'status', status)
        FROM pg_stat_wal_receiver), 'null')"""
    before = None
    while True:
        found = ask_server(cluster, query, username=username)
        is_streaming = found is not None and found["status"] in ("streaming", None)
        if is_streaming and before == found["pid"]:
            return
        before = found["pid"] if is_streaming else None
        if clock() > deadline:
            raise ReplicationError(
                f"the standby {cluster.data_directory} runs, and receives no WAL "
                f"({'no connection' if found is None else found['status']})",
                remedy=f"Its log says why: {cluster.default_log}. It goes on trying: tde "
                f"replication status -D {cluster.data_directory}",
            )
        time.sleep(_LOOK_SECONDS)
