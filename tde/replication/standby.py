"""Making a standby: keys are compared, a slot is made, a base backup is taken, the server starts.

The order is that of what it costs when it fails. A slot that nobody uses keeps WAL on the other
server until its disk is full, so it goes again with whatever it was made for.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tde.errors import ProgramError, ReplicationError
from tde.postgres.cluster.initialize import prepared_directory, remove_files
from tde.postgres.cluster.questions import ask_server
from tde.postgres.server.program import run_program
from tde.replication.slots import replication_slot, require_slot_name
from tde.replication.source import Source

if TYPE_CHECKING:
    from tde.keystore import Keystore
    from tde.postgres.cluster.cluster import Cluster

_LOOK_SECONDS = 0.2
# What needs no quotes in synchronous_standby_names.
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")


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
    mapping: Sequence[str] = ()


def default_name(data_directory: Path) -> str:
    """Return a name for a standby: that of its machine and of its directory."""
    text = f"{socket.gethostname().split('.')[0]}_{data_directory.name}".lower()
    return re.sub(r"[^a-z0-9_]", "_", text)[:63]


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
    if not _NAME.fullmatch(options.name):
        raise ReplicationError(
            f'"{options.name}" cannot be the name of a standby',
            remedy="Such names have letters, digits and underscores.",
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
        ProgramError: pg_basebackup has failed; nothing of it is left.
        ReplicationError: the server refuses a slot.
    """
    arguments = ["-D", str(cluster.data_directory), "-X", "stream", "-c", "fast", "-R", "-P", "-w"]
    connection = source.server.conninfo(application_name=options.name)
    arguments += ["-d", connection]
    if options.slot:
        arguments += ["-S", options.slot]
    if options.rate:
        arguments += ["-r", options.rate]
    for pair in options.mapping:
        arguments += ["-T", pair]
    with (
        prepared_directory(cluster.data_directory, cluster.os_user),
        replication_slot(source.server, options.slot),
    ):
        try:
            done = run_program(
                cluster.binaries,
                "pg_basebackup",
                arguments,
                keystore=keystore,
                os_user=cluster.os_user,
                capture=False,
            )
        except KeyboardInterrupt:
            # It takes back what it has made when it fails, and not when it is ended.
            for directory in [cluster.data_directory, *_targets(options.mapping)]:
                remove_files(directory, cluster.os_user)
            raise
        if done.returncode != 0:
            raise ProgramError(
                f"pg_basebackup of {source.server.name} has failed, with status {done.returncode}",
                remedy="What it has made is removed. See what it says above; the log of the "
                "server there may say more.",
            )


def _targets(mapping: Sequence[str]) -> list[Path]:
    """Return where tablespaces shall be; pg_basebackup has found these directories empty."""
    return [path for pair in mapping if (path := Path(pair.split("=")[-1])).is_dir()]


def wait_until_streaming(
    cluster: Cluster, timeout: float, clock: Callable[[], float] = time.monotonic
) -> None:
    """Wait until a standby that has just started receives WAL from its server.

    Raises:
        ReplicationError: it does not in time; the standby goes on and tries.
    """
    deadline = clock() + timeout
    query = "SELECT coalesce(to_json((SELECT status FROM pg_stat_wal_receiver)), 'null')"
    while (status := ask_server(cluster, query)) != "streaming":
        if clock() > deadline:
            raise ReplicationError(
                f"the standby {cluster.data_directory} runs, and receives no WAL "
                f"({status or 'no connection'})",
                remedy=f"Its log says why: {cluster.default_log}. It goes on trying: tde "
                f"replication status -D {cluster.data_directory}",
            )
        time.sleep(_LOOK_SECONDS)
