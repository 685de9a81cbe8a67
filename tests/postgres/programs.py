"""The programs of a directory of `tde pg install-bin`, or of PostgreSQL's own."""

from __future__ import annotations

import os
from pathlib import Path

from tde.postgres.server.os_user import OsUser, run_as


class Programs:
    """Runs the programs of a directory as the server's user, with the directory first in PATH."""

    def __init__(self, directory: Path, sockets: Path, os_user: OsUser | None) -> None:
        self.directory = directory
        self.sockets = sockets
        self.os_user = os_user

    def run(self, *command: object, exit_code: int | None = 0) -> str:
        environment = {**os.environ, "PATH": f"{self.directory}:{os.environ['PATH']}"}
        environment |= {"PGHOST": str(self.sockets), "PGDATABASE": "postgres", "PGPORT": "5432"}
        arguments = [self.directory / str(command[0]), *map(str, command[1:])]
        result = run_as(self.os_user, arguments, environment=environment, cwd=self.sockets)
        output = result.stdout + result.stderr
        assert exit_code in (None, result.returncode), output
        return output

    def sql(self, statement: str) -> str:
        return self.run("psql", "-Atqc", statement).strip()

    def start(self, data: Path) -> None:
        options = f"-p 5432 -k {self.sockets} -h '' -c wal_keep_size=100MB"
        self.run("pg_ctl", "start", "-w", "-D", data, "-o", options, "-l", f"{data}.log")
