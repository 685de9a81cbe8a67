"""A reader of the pages, who types their commands on real servers."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tde.postgres import Cluster, OsUser
from tde.postgres.server.peer import connect_as_peer
from tests.keystore.cheap_passphrase import PASSPHRASE
from tests.postgres.canaries import CANARY
from tests.terminal import run_on_terminal

# Where the pages keep everything: data, keystores, backups and the archive.
PLACE = "/srv"
MAIN = "/srv/pg/main"
RESTORED = "/srv/pg/restored"
# The ports in the pages; the first is that of a server whose port is not named.
PORTS = ("5432", "5433", "5434")
SETTINGS = ["fsync = off", "shared_buffers = 16MB", "listen_addresses = ''"]


class Reader:
    """Types commands of the pages, with another directory for /srv and free ports.

    What is not ours runs as the server's user, as the pages say.
    """

    def __init__(self, directory: Path, os_user: OsUser | None) -> None:
        self.directory = directory
        self.os_user = os_user
        with contextlib.ExitStack() as stack:
            # All at once, so that they differ.
            sockets = [stack.enter_context(socket.socket()) for _ in PORTS]
            for one in sockets:
                one.bind(("localhost", 0))
            free = [str(one.getsockname()[1]) for one in sockets]
        self.ports = dict(zip(PORTS, free, strict=True))
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "TDE_"))}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.environment = {**kept, "PATH": path, "PGPORT": free[0], "PAGER": "cat"}

    def here(self, text: str) -> str:
        """Return a text with the places and ports of this test."""
        text = text.replace(PLACE, str(self.directory))
        return re.sub(r"\b543[234]\b", lambda port: self.ports[port[0]], text)

    def place(self, path: str) -> Path:
        return Path(self.here(path))

    def type(
        self, *lines: str, exit_codes: Sequence[int] = (0,), answers: Sequence[bytes] | None = None
    ) -> str:
        """Run lines one after the other and return what all of them showed.

        Questions for a passphrase are answered with that of all tests, or with ``answers``.
        """
        shown = ""
        for line in lines:
            typed = ["bash", "-c", self.here(line)]
            if line.startswith("tde "):
                given = itertools.repeat(PASSPHRASE) if answers is None else answers
                lines_typed = (answer + b"\n" for answer in given)
                output, code = run_on_terminal(typed, lines_typed, self.environment)
            else:
                output, code = self._run_as_server(typed)
            assert code in exit_codes, f"{line}\n{output}"
            shown += output
        return shown

    def _run_as_server(self, command: list[str]) -> tuple[str, int]:
        user: dict[str, Any] = {}
        if self.os_user is not None:
            user = {"user": self.os_user.uid, "group": self.os_user.gid, "extra_groups": []}
        result = subprocess.run(
            command,
            env=self.environment,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            **user,
        )
        return result.stdout, result.returncode

    def query(self, data: str, statement: str) -> object:
        """Run a statement on the server of a data directory; return the first value, if any."""
        cluster = Cluster(self.place(data), os_user=self.os_user)
        with contextlib.closing(connect_as_peer(cluster.connection_parameters())) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return cursor.fetchone()[0] if cursor.description else None

    def wait_until(self, data: str, query: str, expected: object) -> None:
        deadline = time.monotonic() + 30
        while self.query(data, query) != expected:
            assert time.monotonic() < deadline, f"{query} did not become {expected}"
            time.sleep(0.1)

    def fill(self, data: str) -> None:
        """Make a table of 1000 rows with the text that must not be on any disk."""
        text = CANARY.decode()
        self.query(data, f"CREATE TABLE t AS SELECT '{text}' AS x FROM generate_series(1, 1000)")
        self.query(data, "CHECKPOINT")
