"""One server under the batch: its connection, its tables, and measuring a piece of work on it."""

from __future__ import annotations

import re
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tde_bench.batch import page_cache
from tde_bench.errors import BenchError
from tde_bench.measure.usage import Usage, read_usage
from tde_bench.servers.database import Connection, execute, fetch_all, fetch_row, fetch_value
from tde_bench.servers.ephemeral import EphemeralServer

# What a phase returns: rows that must be the same in every configuration.
Answer = tuple[Any, ...]

_LOG_TIME = r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}) \S+ .*LOG:  "
_STARTING = re.compile(_LOG_TIME + "starting PostgreSQL", re.MULTILINE)
_READY = re.compile(_LOG_TIME + "database system is ready to accept connections", re.MULTILINE)
_REDO_DONE = "LOG:  redo done at"


@dataclass(frozen=True)
class Measurement:
    """What one phase took on one server.

    Attributes:
        seconds: elapsed.
        usage: of the server in that time.
        client_cpu_seconds: of the programs that were started for it (pg_dump, pg_basebackup).
        answer: what it returned.
    """

    seconds: float
    usage: Usage
    client_cpu_seconds: float
    answer: Answer


class Target:
    """A server with one open connection, and the file that the data comes from.

    Attributes:
        still_cached: the largest part of a file that the page cache kept when it was to be
            dropped.
    """

    def __init__(self, server: EphemeralServer, data_file: Path) -> None:
        self.server = server
        self.data_file = data_file
        self.still_cached = 0.0
        self._connection: Connection | None = None

    @property
    def connection(self) -> Connection:
        """The connection; opened at first use and again after a crash."""
        if self._connection is None:
            self._connection = self.server.connect()
        return self._connection

    def close(self) -> None:
        """Close the connection, if the server has not done so already."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def execute(self, statement: str) -> None:
        """Run one statement."""
        execute(self.connection, statement)

    def fetch(self, query: str) -> Answer:
        """Return the only row of a query."""
        return fetch_row(self.connection, query)

    def plan(self, query: str) -> str:
        """Return the plan that the server would use."""
        return "\n".join(row[0] for row in fetch_all(self.connection, f"EXPLAIN {query}"))

    def settings(self, **values: str | int) -> None:
        """Change settings of the session until :meth:`reset`."""
        for name, value in values.items():
            self.execute(f"SET {name} = '{value}'")

    def reset(self) -> None:
        """Undo all changes of settings."""
        self.execute("RESET ALL")

    def checkpoint(self) -> None:
        """Write all dirty buffers to disk."""
        self.execute("CHECKPOINT")

    def measure(self, work: Callable[[], Answer]) -> Measurement:
        """Do a piece of work and write what it left in the buffers.

        The checkpoint belongs to the work: without it, a phase would leave its writing, and its
        encryption, to the next one.
        """
        before = read_usage(self.server)
        client = _children_cpu_seconds()
        start = time.perf_counter()
        answer = work()
        self.checkpoint()
        seconds = time.perf_counter() - start
        client = _children_cpu_seconds() - client
        return Measurement(seconds, read_usage(self.server).since(before), client, answer)

    def crash(self) -> None:
        """End the server without a checkpoint."""
        self.close()
        self.server.crash()

    def measure_recovery(self) -> Measurement:
        """Start the server after a crash and measure from its first to its ready message.

        The server's own times are used, because whoever starts it looks only ten times a second
        whether it is ready, and first checks a few things. The end of recovery includes a
        checkpoint. What the server used counts from its start.

        Raises:
            BenchError: when the log does not say what was expected, for example because there
                was nothing to recover.
        """
        log_start = self.server.log.stat().st_size
        before = read_usage(self.server).as_new_server()
        self.server.start_again()
        usage = read_usage(self.server).since(before)
        with self.server.log.open("rb") as file:
            file.seek(log_start)
            text = file.read().decode(errors="replace")
        return Measurement(recovery_seconds(text), usage, 0.0, ())

    def drop_from_page_cache(self, relation: str) -> None:
        """Make the next read of a relation come from the disk.

        Only clean pages can be dropped, so they are written first. What shared_buffers holds
        stays, which is little of a relation that is several times larger.
        """
        self.checkpoint()
        for path in self.files(relation):
            page_cache.drop(path)
            self.still_cached = max(self.still_cached, page_cache.cached_fraction(path))

    def files(self, relation: str) -> Iterator[Path]:
        """Yield the segments of a relation's main fork."""
        name = fetch_value(self.connection, "SELECT pg_relation_filepath(%s)", (relation,))
        assert self.server.data_directory is not None
        first = self.server.data_directory / name
        yield first
        number = 1
        while (segment := first.with_name(f"{first.name}.{number}")).exists():
            yield segment
            number += 1


def recovery_seconds(log: str) -> float:
    """Return the seconds from the first message of a start to the one that it is ready.

    Raises:
        BenchError: when one of the messages, or the one about replay, is missing.
    """
    starting, ready = _STARTING.search(log), _READY.search(log)
    if starting is None or ready is None or _REDO_DONE not in log:
        raise BenchError(f"the server's log tells nothing about its recovery:\n{log.strip()}")
    begin, end = (datetime.fromisoformat(match[1]) for match in (starting, ready))
    return (end - begin).total_seconds()


def _children_cpu_seconds() -> float:
    """Return the CPU seconds of all programs that this process has waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
