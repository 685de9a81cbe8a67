"""What a DBA has who lets another tool run encrypted clusters: a directory of programs."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tde.keystore import Keystore
from tde.postgres import (
    AuditReport,
    Cluster,
    OsUser,
    PostgresBinaries,
    audit,
    install_bin_directory,
)
from tde.postgres.server.os_user import run_as
from tde.postgres.server.reachable import reachable_binaries
from tests.postgres.canaries import CANARY
from tests.postgres.programs import Programs

# Not needed to show what these tests show, and the tools sync what they copy.
SETTINGS = [
    "fsync = off",
    "shared_buffers = 16MB",
    "listen_addresses = ''",
    "wal_level = replica",
    "wal_keep_size = 128MB",
]


def require_tools(*names: str) -> None:
    missing = [name for name in names if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not in PATH: {', '.join(missing)}")


def beside(
    binaries: PostgresBinaries, directory: Path, name: str, program: Path
) -> PostgresBinaries:
    """Return an installation with a copy of a program beside PostgreSQL's, as packages add some."""
    directory.mkdir()
    for path in binaries.bindir.iterdir():
        if path.name != name:
            (directory / path.name).symlink_to(path)
    shutil.copyfile(program, directory / name)
    (directory / name).chmod(0o755)
    return replace(binaries, bindir=directory)


def local_ssh(directory: Path) -> Path:
    """Make a program that stands for ssh where all hosts are this one."""
    path = directory / "ssh"
    path.write_text(
        "#!/bin/bash\n"
        "host=\n"
        "while [ $# -gt 0 ]; do\n"
        "  case $1 in\n"
        "    -[olpic]) shift 2 ;;\n"
        "    -*) shift ;;\n"
        '    *) [ -z "$host" ] || break; host=$1; shift ;;\n'
        "  esac\n"
        "done\n"
        'exec bash -c "$*"\n'
    )
    path.chmod(0o755)
    return path


@dataclass
class Site:
    """A directory of the server's user, with programs for encrypted clusters in it."""

    directory: Path
    programs: Programs
    os_user: OsUser | None
    stock: PostgresBinaries
    keystore: Keystore

    def audit(self, data: Path, *backups: Path) -> AuditReport:
        cluster = Cluster(data, self.stock, os_user=self.os_user)
        return audit(cluster, self.keystore, backups=backups, canary=CANARY.decode())

    def make(self, name: str) -> Path:
        path = self.directory / name
        path.mkdir(mode=0o700)
        if self.os_user is not None:
            os.chown(path, self.os_user.uid, self.os_user.gid)
        return path

    def environment(self, **variables: str) -> dict[str, str]:
        first = f"{self.directory}:{self.programs.directory}:{os.environ['PATH']}"
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "XDG_"))}
        return {**kept, "PATH": first, "LC_ALL": "C", **variables}

    def tool(
        self,
        *command: object,
        exit_code: int | None = 0,
        environment: Mapping[str, str] | None = None,
    ) -> str:
        """Run a tool as the server's user, with the directory of the programs first in PATH."""
        run = run_as(
            self.os_user,
            [str(part) for part in command],
            environment=self.environment(**(environment or {})),
            cwd=self.directory,
            timeout=300,
        )
        output = run.stdout + run.stderr
        assert exit_code in (None, run.returncode), f"{command}\n{output}"
        return output

    def init(self, name: str, *settings: str) -> Path:
        data = self.directory / name
        self.programs.run("initdb", "-N", "-k", "-A", "trust", "-U", "postgres", data)
        self.configure(data, *SETTINGS, f"unix_socket_directories = '{self.directory}'", *settings)
        return data

    def configure(self, data: Path, *settings: str) -> None:
        with (data / "postgresql.conf").open("a") as file:
            file.writelines(f"{line}\n" for line in settings)

    def start(self, data: Path) -> None:
        self.programs.run("pg_ctl", "start", "-w", "-D", data, "-l", f"{data}.log")

    def stop(self, data: Path, mode: str = "fast") -> None:
        self.programs.run("pg_ctl", "stop", "-w", "-D", data, "-m", mode)

    def sql(self, statement: str, port: int = 5432, host: str | None = None) -> str:
        where = ("-h", host or str(self.directory), "-p", str(port), "-U", "postgres")
        return self.programs.run("psql", *where, "-d", "postgres", "-Atqc", statement).strip()

    def state(self, data: Path) -> str:
        """Return the state that PostgreSQL's own pg_controldata prints: the one on disk."""
        run = run_as(
            self.os_user,
            [self.stock.program("pg_controldata"), data],
            environment={**os.environ, "LC_ALL": "C"},
        )
        (line,) = [line for line in run.stdout.splitlines() if "cluster state" in line]
        return line.partition(":")[2].strip()


def wait_for(what: str, condition: Callable[[], object], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.2)


@contextmanager
def make_site(
    binaries: PostgresBinaries, keystore: Keystore, directory: Path, os_user: OsUser | None
) -> Iterator[Site]:
    """Install the programs; at the end no server of the directory is left."""
    keystore.enable_auto_open()
    made = install_bin_directory(directory / "bin", binaries, os_user, keystore=keystore)
    site = Site(
        directory,
        Programs(made.path, directory, os_user),
        os_user,
        reachable_binaries(binaries, os_user),
        keystore,
    )
    try:
        yield site
    finally:
        for pidfile in directory.glob("*/postmaster.pid"):
            site.programs.run(
                "pg_ctl", "stop", "-m", "immediate", "-D", pidfile.parent, exit_code=None
            )
