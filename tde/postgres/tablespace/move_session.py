"""One session that moves objects, one after the other.

Each statement is a transaction of its own, so whatever happens to this process, stopped ones
included, no lock outlives the statement that took it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import psycopg2
from psycopg2 import errors

from tde.errors import TdeError
from tde.postgres.tablespace.move_objects import Movable, look_up
from tde.postgres.tablespace.move_schedule import Outcome, Verdict

APPLICATION = "tde tablespace move"
# Of the queries of a move: what other people have made, temporary relations included, is not found.
OWN_SEARCH_PATH = "SET search_path = pg_catalog, pg_temp"
_DROP_ATTEMPTS = 3
_LOOK_AGAIN = 0.05  # Seconds.

# Whoever holds a lock on one of these relations, prepared transactions included, and whose
# transaction is older than so many seconds.
_HOLDERS = """
SELECT DISTINCT l.pid, a.xact_start, coalesce(x.gid,
    coalesce(nullif(a.application_name, ''), a.backend_type, 'unknown')
    || coalesce(', ' || a.state, '')) AS what
FROM pg_locks l
LEFT JOIN pg_stat_activity a ON a.pid = l.pid
LEFT JOIN pg_prepared_xacts x ON l.pid IS NULL AND l.virtualtransaction = '-1/' || x.transaction
WHERE l.locktype = 'relation' AND l.granted AND l.pid IS DISTINCT FROM pg_backend_pid()
    AND (l.pid IS NULL OR a.xact_start < clock_timestamp() - %(age)s * interval '1 second')
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND (l.relation IN (%(oid)s, %(table)s)
        OR l.relation IN (SELECT reltoastrelid FROM pg_class WHERE oid = %(oid)s)
        OR l.relation IN (SELECT i.indexrelid FROM pg_index i
            JOIN pg_class c ON c.reltoastrelid = i.indrelid WHERE c.oid = %(oid)s))
"""

# A concurrent build also waits for who may still look at rows as they were: any transaction of
# this database with a snapshot, but VACUUM and other builds. What another session of a move copies
# may last longer than all attempts, and ends by itself.
_SNAPSHOTS = """
UNION
SELECT a.pid, a.xact_start, coalesce(nullif(a.application_name, ''), a.backend_type)
    || coalesce(', ' || a.state, '')
FROM pg_stat_activity a
WHERE a.datname = current_database() AND a.backend_xmin IS NOT NULL
    AND a.pid <> pg_backend_pid() AND a.application_name <> %(move)s
    AND a.backend_type <> 'autovacuum worker'
    AND a.pid NOT IN (SELECT pid FROM pg_stat_progress_vacuum)
    AND a.pid NOT IN (SELECT pid FROM pg_stat_progress_create_index)
"""

# Only REINDEX CONCURRENTLY gives such names, and of those on one table one runs at a time.
_INVALID = """
SELECT i.indexrelid::int8, format('%%I.%%I', n.nspname, c.relname)
FROM pg_index i
JOIN pg_class c ON c.oid = i.indexrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE i.indrelid = %(table)s AND NOT i.indisvalid
    AND c.relname ~ '_cc(new|old)[0-9]*$'
"""

Connect = Callable[[str | None], Any]
"""Returns a new connection to a database, with the timeout for locks, in autocommit mode."""

WaitedFor = dict[tuple[str, int], set[tuple[Any, ...]]]
"""Transactions that were there when an index was first tried, by :attr:`Movable.key`."""

LackOfRoom = Callable[[Sequence[int]], str | None]
"""Says why copies of these sizes do not fit into the new place now, or returns ``None``."""


class Mover:
    """Moves objects from a tablespace to another.

    Args:
        source: OID of the tablespace.
        target: quoted name of the other one.
        lock_timeout: seconds for which a lock is waited for.
        waited_for: shared by all sessions of a run, and empty at its beginning.
        lack_of_room: is asked before each copy.
    """

    def __init__(
        self,
        connect: Connect,
        source: int,
        target: str,
        lock_timeout: float,
        waited_for: WaitedFor,
        lack_of_room: LackOfRoom,
    ) -> None:
        self._waited_for = waited_for
        self._lack_of_room = lack_of_room
        self._connect = connect
        self._source = source
        self._target = target
        self._lock_timeout = lock_timeout
        self._database: str | None = None
        self._connection: Any = None
        self._guard = threading.Lock()
        self._run_began = 0.0
        self._runs = False  # Whether a statement runs that may be cancelled.
        self._stopped = False

    @property
    def pid(self) -> int | None:
        """Process id of the server's process that works for it."""
        connection = self._connection
        return None if connection is None else connection.info.backend_pid

    def stop(self) -> None:
        """Cancel what runs at the server; called by another thread.

        Repeat it until the thread has ended: a request that overtakes its statement does nothing.
        """
        with self._guard:
            self._stopped = True
            if self._runs:
                with contextlib.suppress(psycopg2.Error):
                    self._connection.cancel()

    def close(self) -> None:
        """End the session."""
        if self._connection is not None:
            self._connection.close()
        self._connection = self._database = None

    def move(self, movable: Movable) -> Outcome:
        """Try once to move an object."""
        begun = time.monotonic()
        try:
            verdict, reason = self._try(movable)
        except (errors.LockNotAvailable, errors.DeadlockDetected):
            verdict, reason = Verdict.LOCKED, self._holders(movable)
        except errors.DiskFull as error:
            verdict, reason = Verdict.FULL, (" ".join(str(error).split()),)
        except (psycopg2.Error, TdeError) as error:
            stopped = self._stopped and isinstance(error, errors.QueryCanceled)
            verdict = Verdict.STOPPED if stopped else Verdict.FAILED
            reason = (" ".join(str(error).split()),)
            if isinstance(error, (psycopg2.OperationalError, psycopg2.InterfaceError)):
                self.close()
        return Outcome(verdict, time.monotonic() - begun, reason)

    def _try(self, movable: Movable) -> tuple[Verdict, tuple[str, ...]]:
        connection = self._session(movable.database)
        current = look_up(connection, movable, self._source)
        if current is None:
            return Verdict.GONE, ()
        lack = self._lack_of_room([current.bytes])
        if lack is not None:
            return Verdict.FULL, (lack,)
        if not current.concurrently:
            self._run(current.statement(self._target))
            return Verdict.MOVED, ()
        # Nothing has begun yet, so nothing is left behind when others hold it up.
        in_the_way = self._wait_for_others(current)
        if in_the_way:
            return Verdict.LOCKED, in_the_way
        with self._without_remains(current):
            # From here on it waits without being in anybody's way.
            self._query("SET lock_timeout = 0")
            self._run(current.statement(self._target))
            self._query("RESET lock_timeout")
        return Verdict.MOVED, ()

    def _session(self, database: str) -> Any:
        """Return the session, in which names are those of the catalogs until something is run."""
        if self._database != database or self._connection.closed:
            self.close()
            self._connection = self._connect(database)
            self._database = database
        self._query(OWN_SEARCH_PATH)
        return self._connection

    def _run(self, statement: str) -> None:
        """Execute what :meth:`stop` may cancel."""
        with self._guard:
            if self._stopped:
                raise errors.QueryCanceled("stopped")
            self._runs = True
        self._run_began = time.monotonic()
        try:
            self._execute(statement)
        finally:
            with self._guard:
                self._runs = False

    def _execute(self, statement: str) -> None:
        """Execute what runs other people's code, with the search_path that it gets elsewhere.

        That is event triggers and, before version 17, functions of indexes. The statement itself
        has no name that the search_path could turn into another one.
        """
        self._query("RESET search_path")
        self._query(statement)

    def _query(self, statement: str, arguments: Mapping[str, object] | None = None) -> list[Any]:
        with self._connection.cursor() as cursor:
            cursor.execute(statement, arguments)
            return list(cursor.fetchall()) if cursor.description else []

    def _holders(self, movable: Movable) -> tuple[str, ...]:
        # Who came later has waited behind this session, and got the lock when it gave up.
        waited = time.monotonic() - self._run_began
        arguments = {"oid": movable.oid, "table": movable.oid, "age": waited}
        try:
            self._session(movable.database)
            return _described(self._query(_HOLDERS, arguments))
        except (psycopg2.Error, TdeError):
            return ()

    def _wait_for_others(self, index: Movable) -> tuple[str, ...]:
        """Wait for transactions that REINDEX CONCURRENTLY would wait for; return who stays.

        It does so itself, but with an unfinished index that nobody can drop meanwhile: DROP INDEX
        CONCURRENTLY waits for the same transactions. Only those that were there at the first
        attempt count here; others may come for ever.
        """
        arguments = {"oid": index.oid, "table": index.table, "age": 0, "move": APPLICATION}
        deadline = time.monotonic() + self._lock_timeout
        while not self._stopped:
            now = set(self._query(_HOLDERS + _SNAPSHOTS, arguments))
            alive = {who[:2] for who in now}
            waited_for = {w for w in self._waited_for.get(index.key, now) if w[:2] in alive}
            self._waited_for[index.key] = waited_for
            if not waited_for:
                break
            if time.monotonic() >= deadline:
                return _described(waited_for)
            time.sleep(_LOOK_AGAIN)
        return ()

    @contextlib.contextmanager
    def _without_remains(self, index: Movable) -> Iterator[None]:
        """Drop the invalid indexes that a REINDEX CONCURRENTLY leaves when it does not finish."""
        before = {oid for oid, *_ in self._query(_INVALID, {"table": index.table})}
        try:
            yield
        except psycopg2.Error:
            # A request to cancel may still be on its way to this session.
            self.close()
            with contextlib.suppress(psycopg2.Error, TdeError):
                self._session(index.database)
                for oid, name in self._query(_INVALID, {"table": index.table}):
                    if oid not in before:
                        self._drop(name)
            raise

    def _drop(self, name: str) -> None:
        for attempt in range(1, _DROP_ATTEMPTS + 1):
            try:
                self._execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            except errors.LockNotAvailable:
                if attempt == _DROP_ATTEMPTS:
                    raise
            else:
                return


def _described(holders: Sequence[Any] | set[Any]) -> tuple[str, ...]:
    return tuple(
        sorted(
            f"prepared transaction {what}" if pid is None else f"pid {pid} ({what})"
            for pid, _, what in holders
        )
    )
