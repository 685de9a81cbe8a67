"""Two primaries with a synchronous standby each, without encryption and with it, for a benchmark.

Each standby runs on the same machine, so a commit waits for no network: what encryption adds to
both ends is as large a part of it as it can be.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tde.keystore import Keystore
from tde.postgres import (
    OsUser,
    PostgresBinaries,
    find_binaries,
    install_bin_directory,
    server_os_user,
)
from tde.postgres.server.os_user import run_as
from tde.postgres.server.reachable import reachable_binaries

_SETTINGS = """\
unix_socket_directories = '{directory}'
listen_addresses = ''
shared_buffers = 128MB
wal_keep_size = 1GB
max_wal_size = 4GB
"""
# Not the machine's: the socket directory is new, so no other server has these.
_PORTS = {"plain": 5440, "AES-256": 5450}


@contextmanager
def synchronous_pairs() -> Iterator[list[str]]:
    """Yield the options of tde-bench that name both primaries; the first one is the baseline."""
    os_user = server_os_user(None)
    directory = Path(tempfile.mkdtemp(prefix="tde-bench-"))
    try:
        _give(directory, os_user)
        stock = reachable_binaries(find_binaries(), os_user)
        pairs = [
            _Pair("plain", directory, stock.bindir, os_user),
            _Pair("AES-256", directory, _encrypting(directory, stock, os_user), os_user),
        ]
        try:
            for pair in pairs:
                pair.make()
            yield [f"--existing={pair.conninfo}={pair.name}" for pair in pairs]
        finally:
            for pair in pairs:
                pair.stop()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _encrypting(directory: Path, stock: PostgresBinaries, os_user: OsUser | None) -> Path:
    """Make a keystore that opens by itself, and return a directory of programs that use it."""
    owner = None if os_user is None else (os_user.uid, os_user.gid)
    path = directory / "keystore"
    with Keystore.create(path, b"a passphrase of this benchmark", owner=owner) as keystore:
        keystore.enable_auto_open()
        return install_bin_directory(directory / "bin", stock, os_user, keystore=keystore).path


def _give(directory: Path, os_user: OsUser | None) -> None:
    if os_user is not None:
        shutil.chown(directory, os_user.uid, os_user.gid)


@dataclass(frozen=True)
class _Pair:
    name: str
    directory: Path
    bindir: Path
    os_user: OsUser | None

    @property
    def conninfo(self) -> str:
        return f"host={self.directory} port={_PORTS[self.name]} user=postgres dbname=postgres"

    def make(self) -> None:
        """Go from nothing to a standby that is synchronous."""
        primary, standby = self._data("primary"), self._data("standby")
        self._run("initdb", "-D", primary, "-k", "-A", "trust", "-U", "postgres", "-N")
        with (primary / "postgresql.conf").open("a") as file:
            file.write(_SETTINGS.format(directory=self.directory))
        self._start(primary, _PORTS[self.name])
        self._run("pg_basebackup", "-d", self.conninfo, "-D", standby, "-c", "fast", "-R")
        self._start(standby, _PORTS[self.name] + 1)
        self._sql("ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()")
        # This commit returns when the standby has it.
        self._sql("CREATE TABLE is_synchronous ()")

    def stop(self) -> None:
        """End both servers, if they run; the standby first would keep the primary waiting."""
        for name in ("primary", "standby"):
            if (self._data(name) / "postmaster.pid").exists():
                self._run("pg_ctl", "stop", "-D", self._data(name), "-m", "immediate", "-w")

    def _data(self, name: str) -> Path:
        return self.directory / f"{self.name}-{name}"

    def _start(self, data: Path, port: int) -> None:
        log = data.with_suffix(".log")
        self._run("pg_ctl", "start", "-w", "-D", data, "-l", log, "-o", f"-p {port}")

    def _sql(self, *statements: str) -> None:
        commands = [word for one in statements for word in ("-c", one)]
        self._run("psql", "-d", self.conninfo, "-Xqt", *commands)

    def _run(self, program: str, *arguments: str | Path) -> None:
        done = run_as(self.os_user, [self.bindir / program, *arguments], timeout=120)
        if done.returncode != 0:
            raise subprocess.CalledProcessError(done.returncode, program, done.stdout, done.stderr)
