"""A client that writes numbered rows through the service address, and notes what was acknowledged.

    python -m tests.ha_lab.client CONNINFO FILE

It goes on until it is ended, and connects again whenever it must: to a primary only.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

import psycopg2

PAUSE = 0.01
_TABLE = "CREATE TABLE IF NOT EXISTS written (id bigint PRIMARY KEY, pad text)"
_INSERT = "INSERT INTO written VALUES (%s, repeat('x', 200))"


class _Client:
    def __init__(self, conninfo: str, path: Path) -> None:
        self._conninfo = conninfo
        self._file = path.open("w", buffering=1, encoding="ascii")
        self._connection: Any = None
        self._number = int(time.time()) * 1_000_000
        self._is_ended = False

    def end(self, *_: object) -> None:
        self._is_ended = True

    def run(self) -> None:
        while not self._is_ended:
            try:
                self._write_one()
            except psycopg2.Error:
                self._note("failed")
                self._connection = None
                time.sleep(0.05)

    def _write_one(self) -> None:
        if self._connection is None:
            self._connect()
        self._number += 1
        with self._connection.cursor() as cursor:
            cursor.execute(_INSERT, (self._number,))
        # A commit whose wait was given up comes with a warning: it is on one node only.
        warned = bool(self._connection.notices)
        self._connection.notices.clear()
        self._note("warned" if warned else "acknowledged")
        time.sleep(PAUSE)

    def _connect(self) -> None:
        connection = psycopg2.connect(self._conninfo)
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_is_in_recovery()")
            row = cursor.fetchone()
            if row is None or row[0]:
                raise psycopg2.OperationalError("a standby")
            cursor.execute(_TABLE)
        connection.notices.clear()
        self._connection = connection
        self._note("connected")

    def _note(self, kind: str) -> None:
        self._file.write(json.dumps({"t": time.time(), "kind": kind, "id": self._number}) + "\n")


def main() -> None:
    """Write until SIGTERM."""
    client = _Client(sys.argv[1], Path(sys.argv[2]))
    signal.signal(signal.SIGTERM, client.end)
    client.run()


if __name__ == "__main__":
    main()
