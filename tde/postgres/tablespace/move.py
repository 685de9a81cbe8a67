"""Moving everything that a running cluster has in one tablespace to another.

The catalogs are the only state: what is still in the old tablespace is what is left to do. So a run
that was interrupted, by whatever it was, is continued by the next one.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg2

from tde.errors import TablespaceError, TdeError
from tde.postgres.cluster.protection import NO_KEY, PLAINTEXT
from tde.postgres.tablespace.move_objects import Contents, Movable, read_contents
from tde.postgres.tablespace.move_rest import (
    PG_DEFAULT,
    PG_GLOBAL,
    Database,
    Remaining,
    read_databases,
    read_settings,
    remaining_of,
    settings_of_functions,
)
from tde.postgres.tablespace.move_result import Left, Leftover, Moved, MovePlan, MoveResult, Rest
from tde.postgres.tablespace.move_run import MoveOptions, MoveProgress, run_sessions
from tde.postgres.tablespace.move_schedule import Outcome, Verdict, in_order
from tde.postgres.tablespace.move_session import APPLICATION, OWN_SEARCH_PATH
from tde.postgres.tablespace.tablespaces import Tablespace, connect, list_tablespaces

if TYPE_CHECKING:
    from tde.postgres.cluster.cluster import Cluster

# Whoever makes tables in the old place all the time is not run after for ever.
_ROUNDS = 5
# What is left free, for rows that others write meanwhile: a part of what is needed, and bytes.
_MARGIN = 0.05
_LEAST_MARGIN = 64 << 20
_OPTIONS = (
    "-c client_encoding=UTF8 -c default_transaction_read_only=off "
    "-c statement_timeout=0 -c idle_session_timeout=0 -c client_min_messages=error"
)


def plan_move(
    cluster: Cluster,
    source: str,
    target: str,
    options: MoveOptions | None = None,
    *,
    keystore_path: Path | None = None,
    username: str | None = None,
) -> MovePlan:
    """Return what :func:`move_tablespace` would do, with the same arguments.

    Raises:
        TdeError: the same errors.
    """
    move = _Move(cluster, source, target, options or MoveOptions(), keystore_path, username)
    look = move.look()
    return MovePlan(tuple(in_order(look.movables)), move.rest(look), move.quoted_target)


def move_tablespace(
    cluster: Cluster,
    source: str,
    target: str,
    options: MoveOptions | None = None,
    *,
    keystore_path: Path | None = None,
    username: str | None = None,
    progress: Callable[[MoveProgress], None] | None = None,
) -> MoveResult:
    """Move what can be moved while the server runs; return also what cannot.

    KeyboardInterrupt cancels what runs, drops what that would leave behind, and is part of the
    result; a second one is raised at once.

    Args:
        source: name of the tablespace that is to be emptied.
        target: name of the other one.
        keystore_path: where the keystore is now, which is only inspected.
        username: a superuser to connect as; by default the one that initdb made.
        progress: called several times a second.

    Raises:
        TablespaceError: it cannot begin; the server does not answer.
        ServerNotRunningError: there is no server.
        KeystoreError: the keystore cannot be inspected.
    """
    move = _Move(cluster, source, target, options or MoveOptions(), keystore_path, username)
    return move.run(progress or (lambda _: None))


@dataclass(frozen=True)
class _Look:
    """What there was at one moment."""

    databases: tuple[Database, ...]
    contents: Mapping[str, Contents]
    unread: Mapping[str, str]

    @property
    def movables(self) -> list[Movable]:
        return [movable for contents in self.contents.values() for movable in contents.movable]


class _Move:
    def __init__(
        self,
        cluster: Cluster,
        source: str,
        target: str,
        options: MoveOptions,
        keystore_path: Path | None,
        username: str | None,
    ) -> None:
        self._cluster = cluster
        self._options = options
        self._user = {} if username is None else {"user": username}
        spaces = {
            space.name: space
            for space in list_tablespaces(cluster, keystore_path, connection=self._user)
        }
        self._source, self._target = _pair(spaces, source, target, options.to_plaintext)
        with closing(self._connect()) as connection, connection.cursor() as cursor:
            _require_rights(cursor)
            cursor.execute("SELECT quote_ident(%s), quote_ident(%s)", (source, target))
            self._quoted_source, self.quoted_target = cursor.fetchone()

    def _connect(self, database: str | None = None) -> Any:
        """Return a session in autocommit mode; names are looked up in the catalogs only."""
        timeout = f"-c lock_timeout={max(1, round(self._options.lock_timeout * 1000))}ms"
        parameters = self._cluster.connection_parameters()
        if database is not None:
            parameters["dbname"] = database
        parameters.update(self._user, options=f"{_OPTIONS} {timeout}", application_name=APPLICATION)
        connection = connect(parameters)
        connection.autocommit = True
        with connection.cursor() as cursor:
            # Not an option: those are what RESET brings back, and RESET shall bring the database's.
            cursor.execute(OWN_SEARCH_PATH)
            if connection.server_version >= 170000:
                cursor.execute("SET transaction_timeout = 0")
        return connection

    def look(self) -> _Look:
        """Look into every database that allows connections."""
        with closing(self._connect()) as connection, connection.cursor() as cursor:
            databases = read_databases(cursor, self._source.oid, self._target.oid)
        wanted = set(self._options.databases) or {d.name for d in databases}
        unknown = wanted - {d.name for d in databases}
        if unknown:
            raise TablespaceError(f"there is no database named {', '.join(sorted(unknown))}")
        contents: dict[str, Contents] = {}
        unread: dict[str, str] = {}
        for database in databases:
            if not database.reachable or database.name not in wanted:
                continue
            try:
                with closing(self._connect(database.name)) as connection:
                    contents[database.name] = read_contents(
                        connection, database.name, self._source.oid, self._target.oid
                    )
            except (psycopg2.Error, TdeError, ValueError) as error:
                unread[database.name] = " ".join(str(error).split())
        return _Look(tuple(databases), contents, unread)

    def rest(self, look: _Look) -> Rest:
        """Return what is not for sessions to move."""
        remaining: list[Remaining] = []
        for database in look.databases:
            if database.name not in look.unread:
                remaining += remaining_of(
                    database,
                    look.contents.get(database.name),
                    self._source.oid,
                    self.quoted_target,
                    skipped=bool(self._options.databases),
                )
        leftovers = [
            Leftover(name, index)
            for name, found in look.contents.items()
            for index in found.leftovers
        ]
        with closing(self._connect()) as connection, connection.cursor() as cursor:
            settings = read_settings(cursor, self._source.name, self._target.name)
        for name, found in look.contents.items():
            settings += settings_of_functions(name, found, self._source.name, self._target.name)
        return Rest(tuple(remaining), tuple(leftovers), tuple(settings), look.unread)

    def run(self, progress: Callable[[MoveProgress], None]) -> MoveResult:
        """Move, and look again, until nothing new is found."""
        begun = time.monotonic()
        outcomes: dict[tuple[str, int], Outcome] = {}
        moved: dict[tuple[str, int], Moved] = {}
        look = self.look()
        self._require_room(look.movables)
        interrupted = ended = False
        for _ in range(_ROUNDS):
            new = [movable for movable in look.movables if movable.key not in outcomes]
            if not new or ended:
                break
            run = run_sessions(
                new,
                self._connect,
                self._source.oid,
                self.quoted_target,
                self._options,
                progress,
                self._lack_of_room,
            )
            outcomes |= run.outcomes
            interrupted, ended = run.interrupted, run.ended
            for movable in new:
                outcome = outcomes.get(movable.key)
                if outcome is not None and outcome.verdict is Verdict.MOVED:
                    moved[movable.key] = Moved(movable, outcome.seconds)
            look = self.look()
        left = [_left(movable, outcomes.get(movable.key)) for movable in look.movables]
        rest = self.rest(look)
        is_plain = self._source.protection == PLAINTEXT
        is_empty = not (left or rest.remaining or rest.leftovers or rest.unread)
        return MoveResult(
            moved=tuple(moved.values()),
            left=tuple(left),
            rest=rest,
            seconds=time.monotonic() - begun,
            interrupted=interrupted,
            droppable=is_empty and self._source.oid != PG_DEFAULT,
            statement=f"DROP TABLESPACE {self._quoted_source}",
            key_file=None if is_plain else self._source.key_file,
        )

    def _require_room(self, movables: Sequence[Movable]) -> None:
        """Check that copies fit; on one file system each original makes room for the next."""
        sizes = sorted((movable.bytes for movable in movables), reverse=True)
        try:
            source, target = self._directory(self._source), self._directory(self._target)
            if source.stat().st_dev == target.stat().st_dev:
                sizes = sizes[: self._options.jobs]
        except OSError:
            return
        lack = self._lack_of_room(sizes)
        if lack is not None:
            raise TablespaceError(
                lack, remedy="Make room, or move one database after the other with --database."
            )

    def _lack_of_room(self, sizes: Sequence[int]) -> str | None:
        """Say why copies do not fit now; their WAL, which is as large, may lie in the same place.

        A full disk is a failed statement for the copy, and for WAL the end of the server.
        """
        if not sizes:
            return None
        target, wal = self._directory(self._target), self._cluster.data_directory / "pg_wal"
        try:
            has_wal = wal.stat().st_dev == target.stat().st_dev
            free = shutil.disk_usage(target).free
        except OSError:
            return None  # It is not seen from here. A server that finds no room says so.
        needed = sum(sizes) * (2 if has_wal else 1)
        needed += max(round(needed * _MARGIN), _LEAST_MARGIN)
        if free >= needed:
            return None
        return (
            f'the file system of the tablespace "{self._target.name}" has {free >> 20} MiB free, '
            f"and {needed >> 20} MiB are needed" + (", WAL included" if has_wal else "")
        )

    def _directory(self, space: Tablespace) -> Path:
        data = self._cluster.data_directory
        return data / "pg_tblspc" / str(space.oid) if space.location else data / "base"


def _pair(
    spaces: Mapping[str, Tablespace], source: str, target: str, to_plaintext: bool
) -> tuple[Tablespace, Tablespace]:
    for name in (source, target):
        if name not in spaces:
            raise TablespaceError(
                f'there is no tablespace "{name}"', remedy="See tde tablespace list."
            )
        if spaces[name].oid == PG_GLOBAL:
            raise TablespaceError(
                "pg_global holds what all databases share: nothing moves from or to it"
            )
        if spaces[name].protection == NO_KEY:
            raise TablespaceError(
                f'the key of the tablespace "{name}" is not in the keystore, so the server cannot '
                "open its files",
                remedy="tde keystore copy brings it from a backup of the keystore.",
            )
    if source == target:
        raise TablespaceError(f'both are the tablespace "{source}"')
    is_exposed = spaces[target].protection == PLAINTEXT != spaces[source].protection
    if is_exposed and not to_plaintext:
        raise TablespaceError(
            f'"{source}" is encrypted and "{target}" is not: its rows would be written to the disk '
            "in plaintext, and overwriting them later may not remove them",
            remedy="Name an encrypted tablespace; if that is what you want: --to-plaintext.",
        )
    return spaces[source], spaces[target]


def _require_rights(cursor: Any) -> None:
    cursor.execute("SELECT pg_is_in_recovery(), current_setting('is_superuser'), current_user")
    in_recovery, is_superuser, user = cursor.fetchone()
    if in_recovery:
        raise TablespaceError(
            "this server is a standby, which cannot move anything",
            remedy="Run it on the primary: standbys follow.",
        )
    if is_superuser != "on":
        raise TablespaceError(
            f"{user} is no superuser, and could move only what it owns",
            remedy="Name a superuser with --username.",
        )


def _left(movable: Movable, outcome: Outcome | None) -> Left:
    if outcome is None:
        return Left(movable, Verdict.STOPPED)
    if outcome.verdict in (Verdict.MOVED, Verdict.GONE):
        return Left(movable, Verdict.FAILED, ("it was moved back meanwhile",))
    return Left(movable, outcome.verdict, outcome.reason)
