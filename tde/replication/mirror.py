"""A second copy of the WAL, written at the same time as the first.

pg_receivewal writes it, and says so to the server before a commit returns: with the mirror in
synchronous_standby_names no commit that was acknowledged is in one place only. When all of pg_wal
is lost, what the mirror has takes its place, and crash recovery goes on from there.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING

import psycopg2
from psycopg2.extensions import make_dsn

from tde.errors import ProgramError, ReplicationError, ServerNotRunningError, TdeError
from tde.postgres.server.control import read_control_data
from tde.postgres.server.os_user import OsUser, can_access, name_of_user, run_as
from tde.postgres.server.peer import connect_as_peer
from tde.postgres.server.program import run_program
from tde.replication.primary import add_synchronous

if TYPE_CHECKING:
    from tde.keystore import Keystore
    from tde.postgres.cluster.cluster import Cluster

_SEGMENT = re.compile(r"([0-9A-F]{24})(\.partial)?")
_AGAIN_SECONDS = 5.0
_LOOK_SECONDS = 0.5
_RELOAD_SECONDS = 2.0


@dataclass(frozen=True)
class MirrorOptions:
    """Where WAL is mirrored to.

    Attributes:
        directory: of the segments; on another disk than pg_wal.
        name: of the replication slot, and the application_name.
        synchronous: whether commits wait for it.
    """

    directory: Path
    name: str = "tde_mirror"
    synchronous: bool = True


def mirror_wal(
    cluster: Cluster,
    keystore: Keystore | None,
    options: MirrorOptions,
    *,
    tell: Callable[[str], None],
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Mirror the WAL of a running server until this process is interrupted.

    pg_receivewal is started again whenever it ends: the server may be restarted meanwhile.

    Args:
        tell: is told in words of each end.

    Raises:
        KeyboardInterrupt: in the end.
        ReplicationError: the server refuses the slot or the setting.
    """
    _require_directory(options.directory, cluster.os_user)
    made = _run_receiver(cluster, keystore, options, "--create-slot", "--if-not-exists")
    if made != 0:
        raise ReplicationError(
            f"the server in {cluster.data_directory} makes no replication slot {options.name}",
            remedy="See what pg_receivewal says above.",
        )
    ended = Event()
    helper = Thread(target=_become_synchronous, args=(cluster, options, ended, tell), daemon=True)
    if options.synchronous:
        helper.start()
    try:
        while True:
            _remove_empty(options.directory, cluster)
            code = _receive(cluster, keystore, options)
            tell(f"pg_receivewal has ended with status {code}; it is started again")
            pause(_AGAIN_SECONDS)
    finally:
        ended.set()


def _require_directory(directory: Path, os_user: OsUser | None) -> None:
    """Check the place before there is a slot that keeps WAL for it."""
    user = name_of_user(os_user)
    if not directory.is_dir() or not can_access(os_user, directory, "-w"):
        raise ReplicationError(
            f"{directory} is no directory that {user} can write to",
            remedy=f"Make it: install -d -o {user} -m 700 {directory}",
        )


def restore_mirror(cluster: Cluster, directory: Path) -> list[str]:
    """Put the WAL of a mirror into the place of a pg_wal that was lost; return the segments' names.

    Only what recovery needs is copied, and nothing that is there is replaced.

    Args:
        cluster: stopped; its pg_control tells where recovery begins.

    Raises:
        ReplicationError: the mirror lacks the segment where recovery begins, or pg_wal has it.
        ProgramError: pg_control cannot be read, or a file not be written.
    """
    control = read_control_data(cluster.data_directory, cluster.binaries, cluster.os_user)
    first = control.redo_segment
    wal = cluster.data_directory / "pg_wal"
    if (wal / first).exists():
        raise ReplicationError(
            f"{wal} has {first}, where recovery begins: it is not lost",
            remedy="Start the server. If its WAL is damaged, move all of pg_wal away first.",
        )
    needed = _segments_from(directory, first, control.wal_segment_bytes)
    if first not in needed:
        raise ReplicationError(
            f"the mirror {directory} has no {first}, where recovery begins",
            remedy="Restore a base backup, and let it replay the archive, then the mirror: tde pg "
            f"restore --restore-command 'cp {directory}/%f %p || cp {directory}/%f.partial %p'",
        )
    if wal.is_symlink() and not wal.exists():
        raise ReplicationError(
            f"{wal} is a link to {wal.readlink()}, which is not there",
            remedy="Make that directory for the server's user, or remove the link.",
        )
    for path in (wal, wal / "archive_status"):
        run_as(cluster.os_user, ["mkdir", "-p", "-m", "700", path])
    for name, source in needed.items():
        _copy(cluster, source, wal / name, control.wal_segment_bytes)
    return list(needed)


def _become_synchronous(
    cluster: Cluster, options: MirrorOptions, ended: Event, tell: Callable[[str], None]
) -> None:
    """Let commits wait for the mirror, once it streams: not for one that never comes."""
    while not ended.wait(_LOOK_SECONDS):
        try:
            with closing(connect_as_peer(cluster.connection_parameters())) as connection:
                connection.autocommit = True
                with connection.cursor() as cursor:
                    cursor.execute(
                        "SELECT count(*) FROM pg_stat_replication "
                        "WHERE application_name = %s AND state = 'streaming'",
                        (options.name,),
                    )
                    if cursor.fetchone() == (0,):
                        continue
                    cursor.execute("SHOW synchronous_commit")
                    if cursor.fetchone() == ("remote_apply",):
                        tell(
                            "Commits do NOT wait for the mirror: with synchronous_commit = "
                            "remote_apply they would wait for ever, because it applies nothing"
                        )
                        return
                    add_synchronous(cursor, [options.name])
                    cursor.execute("SELECT pg_reload_conf()")
                    ended.wait(_RELOAD_SECONDS)
                    cursor.execute(
                        "SELECT sync_state FROM pg_stat_replication WHERE application_name = %s",
                        (options.name,),
                    )
                    tell(_in_words(options, cursor.fetchone()))
                    return
        except (psycopg2.OperationalError, ServerNotRunningError):
            continue  # The server is being restarted.
        except (psycopg2.Error, TdeError) as error:
            tell(f"Commits do NOT wait for the mirror: {error}")
            return


def _in_words(options: MirrorOptions, state: tuple[str] | None) -> str:
    if state is not None and state[0] in ("sync", "quorum"):
        return f"{options.directory} has all WAL, and commits wait for it"
    return (
        "Commits do NOT wait for the mirror: synchronous_standby_names has other standbys before "
        f"it. To wait for all, set it to 'FIRST 2 (…, {options.name})' or 'ANY 2 (…)'"
    )


def _receive(cluster: Cluster, keystore: Keystore | None, options: MirrorOptions) -> int:
    if cluster.pid is None:
        return 1
    return _run_receiver(cluster, keystore, options, "--synchronous", "--no-loop")


def _run_receiver(
    cluster: Cluster, keystore: Keystore | None, options: MirrorOptions, *more: str
) -> int:
    parameters = cluster.connection_parameters()
    conninfo = make_dsn(
        host=parameters["host"],
        port=parameters["port"],
        user=parameters["user"],
        application_name=options.name,
    )
    arguments = ["-d", conninfo, "-w", "-S", options.name, *more]
    if "--create-slot" not in more:
        arguments += ["-D", str(options.directory)]
    done = run_program(
        cluster.binaries,
        "pg_receivewal",
        arguments,
        keystore=keystore,
        os_user=cluster.os_user,
        capture=False,
    )
    return done.returncode


def _remove_empty(directory: Path, cluster: Cluster) -> None:
    """Remove a segment that was being made when pg_receivewal was killed: it would not go on."""
    sizes = {path.stat().st_size for path in directory.iterdir() if _SEGMENT.fullmatch(path.name)}
    whole = max(sizes, default=0)
    for path in directory.glob("*.partial"):
        if path.stat().st_size < whole and not any(path.read_bytes()):
            run_as(cluster.os_user, ["rm", "-f", path])


def _segments_from(directory: Path, first: str, size: int) -> dict[str, Path]:
    """Return the segments of a timeline from one on, each by its name in pg_wal.

    Raises:
        ReplicationError: one is missing between others: recovery would take that for the end.
    """
    found: dict[str, Path] = {}
    for path in sorted(directory.iterdir()):
        match = _SEGMENT.fullmatch(path.name)
        if match and match[1][:8] == first[:8] and match[1] >= first:
            found.setdefault(match[1], path)  # A whole one comes before the same one in part.
    if first not in found:
        return {}
    expected = _number(first, size)
    for name in found:
        if _number(name, size) != expected:
            raise ReplicationError(
                f"the mirror {directory} has {name}, and not the segment before it",
                remedy="What was committed after the gap would be lost without a word. Look for "
                "that segment in the archive, put it into a copy of the mirror, and repeat the "
                "command with that.",
            )
        expected += 1
    return found


def _number(name: str, size: int) -> int:
    """Return the number of a segment on its timeline."""
    return int(name[8:16], 16) * ((1 << 32) // size) + int(name[16:24], 16)


def _copy(cluster: Cluster, source: Path, target: Path, size: int) -> None:
    if source.stat().st_size != size:
        raise ProgramError(
            f"{source} has {source.stat().st_size} bytes, and a segment has {size}",
            remedy="If it is the last one, nothing was written to it yet: move it away, and repeat "
            "the command.",
        )
    partial = target.with_name(f"{target.name}.copying")
    commands: list[list[str | Path]] = [
        ["cp", source, partial],
        ["sync", partial],
        ["mv", "-n", partial, target],
    ]
    for command in commands:
        done = run_as(cluster.os_user, command)
        if done.returncode != 0:
            raise ProgramError(f"could not copy {source} to {target}: {done.stderr.strip()}")
