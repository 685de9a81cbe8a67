"""One cluster on a disk that loses power: the same code for stock PostgreSQL and with tde."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import psycopg2

from tde.algorithms import Algorithm
from tde.errors import TdeError
from tde.keystore import Keystore
from tde.postgres import Cluster, OsUser, PostgresBinaries, create_tablespace, server_os_user
from tde.postgres.cluster import starting
from tde.postgres.server.build import require_supported_build
from tde.postgres.server.sockets import private_directory, remove_private_directory
from tests.keystore.cheap_passphrase import CHEAP_KDF, PASSPHRASE

# Small, so that buffers are written and WAL is recycled within seconds.
SETTINGS = {
    "listen_addresses": "",
    "shared_buffers": "2MB",
    "max_wal_size": "8MB",
    "min_wal_size": "4MB",
    "checkpoint_timeout": "30s",
    "checkpoint_completion_target": "0.3",
    "bgwriter_delay": "20ms",
    "wal_writer_delay": "20ms",
    "autovacuum_naptime": "1s",
    "max_connections": "30",
    "wal_keep_size": "0",
}
# What a crash state is started with: nothing here has to survive a second power cut.
REPLAY_SETTINGS = {**SETTINGS, "fsync": "off", "autovacuum": "off", "restart_after_crash": "off"}
INITDB = ("--no-sync", "--wal-segsize=1", "--locale=C", "--encoding=UTF8")


# The program is the same in each of hundreds of starts, and reading its symbols takes a second.
_check_build = functools.cache(require_supported_build)


class Side(str, Enum):
    """Whose durability is tried."""

    STOCK = "stock"
    TDE = "tde"


@dataclass
class Site:
    """The directory on the disk, and the programs that work in it."""

    root: Path
    side: Side
    binaries: PostgresBinaries
    os_user: OsUser | None = field(default_factory=lambda: server_os_user(None))

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def keystore_path(self) -> Path:
        return self.root / "keystore"

    @property
    def outside(self) -> Path:
        """A directory beside the disk, for the server's log and what does not lose power."""
        return self.root.with_name(self.root.name + "-outside")

    @property
    def log(self) -> Path:
        return self.outside / "server.log"

    def cluster(self, data: Path | None = None) -> Cluster:
        return Cluster(data or self.data, self.binaries, os_user=self.os_user)

    def make_empty(self) -> None:
        """Make the disk and what is beside it, empty and of the server's user."""
        for directory in (self.root, self.outside):
            directory.mkdir(mode=0o755, exist_ok=True)
            for path in directory.iterdir():
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            self.give(directory)

    def remove(self) -> None:
        for directory in (self.root, self.outside):
            shutil.rmtree(directory, ignore_errors=True)

    def give(self, path: Path) -> None:
        """Give a path to the server's user, if that is somebody else."""
        if self.os_user is not None:
            os.chown(path, self.os_user.uid, self.os_user.gid)

    def make_directory(self, path: Path) -> Path:
        """Make a directory as a careful administrator does: it is synced in its parent."""
        path.mkdir(mode=0o700)
        self.give(path)
        for synced in (path, path.parent):
            descriptor = os.open(synced, os.O_RDONLY | os.O_DIRECTORY)
            os.fsync(descriptor)
            os.close(descriptor)
        return path

    def create_keystore(self) -> None:
        if self.side is Side.TDE:
            owner = None if self.os_user is None else (self.os_user.uid, self.os_user.gid)
            Keystore.create(self.keystore_path, PASSPHRASE, kdf=CHEAP_KDF, owner=owner).close()

    @contextlib.contextmanager
    def keystore(self) -> Iterator[Keystore | None]:
        """The open keystore; None for stock PostgreSQL."""
        if self.side is Side.STOCK:
            yield None
            return
        opened = Keystore.open(self.keystore_path, PASSPHRASE)
        try:
            yield opened
        finally:
            opened.close()

    def init(self, *arguments: str) -> None:
        with self.keystore() as keystore:
            self.cluster().init(keystore=keystore, initdb_args=[*INITDB, *arguments])

    def start(
        self,
        settings: Mapping[str, str] | None = None,
        *,
        data: Path | None = None,
        timeout: float = 60,
    ) -> None:
        once = mock.patch.object(starting, "require_supported_build", _check_build)
        with self.keystore() as keystore, once:
            self.cluster(data).start(
                keystore,
                options={**SETTINGS, **(settings or {})},
                log=self.log,
                timeout=timeout,
            )

    def stop(self, data: Path | None = None) -> None:
        self.cluster(data).stop()

    def kill(self, data: Path | None = None) -> None:
        """End a server at once, all of its processes, and leave no socket behind."""
        cluster = self.cluster(data)
        if cluster.data_directory.exists():
            for process in _processes_of(cluster.data_directory):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
                    _wait_until_dead(process)
        for socket in private_directory(cluster.data_directory, self.os_user).glob(".s.PGSQL.*"):
            socket.unlink()
        remove_private_directory(cluster.data_directory, self.os_user)

    def connect(self, dbname: str = "postgres", *, data: Path | None = None) -> Any:
        parameters: dict[str, Any] = self.cluster(data).connection_parameters(dbname)
        connection = psycopg2.connect(**parameters, connect_timeout=20)
        connection.autocommit = True
        return connection

    def query(self, statement: str, dbname: str = "postgres") -> list[tuple[Any, ...]]:
        connection = self.connect(dbname)
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def create_tablespace(self, name: str) -> None:
        """Create a tablespace by SQL, as a DBA does who does not think of tde."""
        location = self.make_directory(self.root / name)
        self.query(f"CREATE TABLESPACE {name} LOCATION '{location}'")

    def create_tablespace_with_tde(self, name: str) -> None:
        """Create a tablespace with ``tde tablespace create``; by SQL on the stock side."""
        if self.side is Side.STOCK:
            self.create_tablespace(name)
            return
        with self.keystore() as keystore:
            assert keystore is not None
            create_tablespace(self.cluster(), keystore, name, self.root / name, Algorithm.AES128)

    def server_errors(self) -> str:
        """Return what of the server's log says why it did not start."""
        if not self.log.exists():
            return ""
        lines = self.log.read_text(errors="replace").splitlines()
        words = ("FATAL", "PANIC", "HINT", "tde:", "ERROR")
        return " | ".join([line for line in lines if any(w in line for w in words)][:6])


def try_to(action: Any) -> str | None:
    """Run something and return what it failed with, for the commands and servers of both sides."""
    try:
        action()
    except (TdeError, psycopg2.Error, OSError) as error:
        return f"{type(error).__name__}: {str(error).strip()}"
    return None


def _wait_until_dead(process: psutil.Process) -> None:
    """Wait for the end of a process; the system's first one may take seconds to collect it."""
    deadline = time.monotonic() + 30
    while process.status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            raise psutil.TimeoutExpired(30, process.pid)
        time.sleep(0.005)


def _processes_of(data_directory: Path) -> list[psutil.Process]:
    """Return the server's processes, wherever their postmaster is by now."""
    found = []
    for process in psutil.process_iter(["name"]):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if process.info["name"] == "postgres" and process.cwd() == str(data_directory):
                found.append(process)
    return found
