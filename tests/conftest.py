"""Fixtures for tests that run real PostgreSQL servers.

Tests run in parallel (xdist), as root or as an ordinary user. So every cluster has a directory
of its own that the server's user can reach, listens on a Unix socket of its own only, and is
gone after the test, whatever the test did to it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import psycopg2
import pytest

from tde import _core
from tde.algorithms import Algorithm
from tde.errors import InterposerError, TdeError
from tde.keystore import Keystore
from tde.postgres import Cluster, OsUser, PostgresBinaries, Scope, server_os_user
from tde.postgres.server.interposer import find_interposer
from tde.postgres.server.os_user import run_as
from tde.postgres.server.sockets import private_directory, remove_private_directory
from tests import emulation
from tests.cluster_templates import ClusterTemplates, Wanted
from tests.installations import installations, tested_installations
from tests.keystore.cheap_passphrase import CHEAP_KDF, PASSPHRASE
from tests.light_forks import use_setpriv

# A DBA's own settings, of libpq or for tde, reach no program of a test.
for _name in [name for name in os.environ if name.startswith(("PG", "TDE_"))]:
    if _name != "PG_CONFIG":  # Which says where PostgreSQL is.
        del os.environ[_name]

use_setpriv()


@pytest.fixture(scope="session", autouse=True)
def place_of_acceptance() -> Iterator[Path]:
    """Keep what tests accept out of the places of this machine, for all programs they run."""
    with tempfile.TemporaryDirectory(prefix="test-of-tde-accepted-", dir="/tmp") as directory:
        Path(directory).chmod(0o755)  # The server's user reads what root has accepted.
        os.environ["TDE_ACCEPTED"] = directory
        yield Path(directory)
        del os.environ["TDE_ACCEPTED"]


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that others may enter: the server's user, or the owner of a keystore of root's.

    pytest's own tmp_path is below a directory that only its creator may enter.
    """
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


_MEMORY = Path("/dev/shm")
_MEMORY_NEEDED = 4 << 30  # Bytes; a cluster has 40 to 60 MB, and few are there at once.

# Servers that `tde pg start` starts have a socket in PostgreSQL's own directory, too, where those
# of another process would be in the way: each process that runs tests has a port of its own.
_PORT = 20000 + os.getpid() % 40000

# Tests of crashes turn fsync on themselves; for all others it only costs time.
SERVER_OPTIONS = {"listen_addresses": "", "shared_buffers": "16MB", "fsync": "off"}


def pytest_report_header() -> list[str]:
    try:
        interposer = str(find_interposer())
    except InterposerError:
        interposer = "not built"
    servers = ", ".join(f"{b.version_text} in {b.bindir}" for b in installations().values())
    return [
        f"PostgreSQL: {servers or 'none'}",
        f"libcrypto: {_core.openssl_version()}",
        f"interposer: {interposer}",
    ]


_INSTALLATIONS = {"binaries", "binaries_older_slow", "any_binaries"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what depends on a version of PostgreSQL, and what emulation cannot run."""
    for item in items:
        if isinstance(item, pytest.Function) and not _INSTALLATIONS.isdisjoint(item.fixturenames):
            item.add_marker("on_server")
        if (reason := emulation.why_not(item.nodeid)) is not None:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def postgres_installations() -> dict[int, PostgresBinaries]:
    """The installations on this machine, by major version."""
    return installations()


def _slow_but(*majors: int | None) -> list[Any]:
    """Return the installations as parameters; all but some versions are marked slow."""
    return [
        pytest.param(found, id=f"pg{major}", marks=() if major in majors else (pytest.mark.slow,))
        for major, found in tested_installations().items()
    ]


_OLDEST = min(tested_installations(), default=None)
_NEWEST = max(tested_installations(), default=None)


@pytest.fixture(scope="session", params=_slow_but(_OLDEST, _NEWEST))
def binaries(request: pytest.FixtureRequest) -> PostgresBinaries:
    """Each installation in turn: a test that asks for it runs on every major version.

    Those between the oldest and the newest run with ``-m slow``.
    """
    result: PostgresBinaries = request.param
    return result


@pytest.fixture(scope="session", params=_slow_but(_NEWEST))
def binaries_older_slow(request: pytest.FixtureRequest) -> PostgresBinaries:
    """As binaries, for long tests: only the newest version runs without ``-m slow``."""
    result: PostgresBinaries = request.param
    return result


@pytest.fixture(scope="session")
def any_binaries() -> PostgresBinaries:
    """One installation, for what does not depend on the version of the server."""
    return next(iter(tested_installations().values()))


@pytest.fixture(scope="session")
def os_user() -> OsUser | None:
    """The user that runs the servers, None when that is the current one."""
    return server_os_user(None)


@pytest.fixture(scope="session")
def cluster_templates(os_user: OsUser | None) -> Iterator[ClusterTemplates]:
    """What clusters of tests are copied from."""
    with _temporary_directory(os_user, str(_MEMORY) if _has_memory() else "/tmp") as directory:
        yield ClusterTemplates(directory, os_user)


@pytest.fixture
def os_user_tmp_path(request: pytest.FixtureRequest, os_user: OsUser | None) -> Iterator[Path]:
    """A temporary directory that belongs to the server's user.

    pytest's own tmp_path is below a directory that only its creator may enter.
    """
    with _temporary_directory(os_user, _place_of_clusters(request.node)) as directory:
        yield directory


@pytest.fixture(scope="module")
def module_os_user_tmp_path(
    request: pytest.FixtureRequest, os_user: OsUser | None
) -> Iterator[Path]:
    """As os_user_tmp_path, for all tests of a module."""
    with _temporary_directory(os_user, _place_of_clusters(request.node)) as directory:
        yield directory


@pytest.fixture
def keystore_factory(
    os_user_tmp_path: Path, os_user: OsUser | None, cluster_templates: ClusterTemplates
) -> Iterator[Callable[..., Keystore]]:
    """Makes open keystores with a cheap KDF: ``keystore_factory("name")``."""
    factory = ClusterFactory(os_user_tmp_path, os_user, cluster_templates)
    try:
        yield factory.keystore
    finally:
        factory.close()


@pytest.fixture
def encrypted_cluster_factory(
    os_user_tmp_path: Path, os_user: OsUser | None, cluster_templates: ClusterTemplates
) -> Iterator[ClusterFactory]:
    """Makes clusters that live as long as the test; see :class:`ClusterFactory`."""
    factory = ClusterFactory(os_user_tmp_path, os_user, cluster_templates)
    try:
        yield factory
    finally:
        factory.close()


@pytest.fixture(scope="module")
def module_cluster_factory(
    module_os_user_tmp_path: Path, os_user: OsUser | None, cluster_templates: ClusterTemplates
) -> Iterator[ClusterFactory]:
    """Makes clusters that the tests of a module share."""
    factory = ClusterFactory(module_os_user_tmp_path, os_user, cluster_templates)
    try:
        yield factory
    finally:
        factory.close()


@pytest.fixture
def tde_command() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs ``tde`` with the passphrase on standard input, and checks its exit code."""
    program = Path(sys.executable).with_name("tde")

    def run(*arguments: object, exit_code: int | None = 0) -> subprocess.CompletedProcess[str]:
        result = subprocess.run(
            [program, *map(str, arguments)],
            input=PASSPHRASE.decode(),
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert exit_code in (None, result.returncode), result.stdout + result.stderr
        return result

    return run


@dataclass
class RunningCluster:
    """A cluster of a test with its keystore (``None`` for a plain one)."""

    cluster: Cluster
    keystore: Keystore | None

    @property
    def data_directory(self) -> Path:
        return self.cluster.data_directory

    def start(self, options: Mapping[str, str] | None = None, **arguments: Any) -> None:
        self.cluster.start(
            self.keystore, options={**SERVER_OPTIONS, **(options or {})}, **arguments
        )

    def query(
        self, statement: str, parameters: Sequence[object] = (), *, dbname: str = "postgres"
    ) -> list[tuple[Any, ...]]:
        """Run one statement in autocommit mode and return its rows, if it has any."""
        connection = psycopg2.connect(**self.cluster.connection_parameters(dbname))
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement, parameters or None)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()


class ClusterFactory:
    """Makes clusters below one directory and removes every trace of their servers.

    Calling it makes an encrypted cluster and starts it; :meth:`plain` makes one without keys.
    """

    def __init__(
        self, directory: Path, os_user: OsUser | None, templates: ClusterTemplates
    ) -> None:
        self.directory = directory
        self.os_user = os_user
        self._templates = templates
        self._keystores: list[Keystore] = []
        self._clusters: list[Cluster] = []

    def __call__(
        self,
        binaries: PostgresBinaries,
        *,
        name: str = "data",
        scope: Scope = Scope.CLUSTER,
        algorithm: Algorithm = Algorithm.AES256,
        initdb_args: Sequence[str] = (),
        options: Mapping[str, str] | None = None,
        start: bool = True,
    ) -> RunningCluster:
        cluster = self.track(Cluster(self.directory / name, binaries, os_user=self.os_user))
        wanted = Wanted(name, binaries.bindir, scope, algorithm, ("--no-sync", *initdb_args))
        keystore = self._copy_of(wanted, cluster)
        if keystore is None:
            keystore = self.keystore(f"{name}-keystore")
            _init(cluster, wanted, keystore)
        made = RunningCluster(cluster, keystore)
        if start:
            made.start(options)
        return made

    def plain(
        self,
        binaries: PostgresBinaries,
        *,
        name: str = "plain",
        options: Mapping[str, str] | None = None,
        start: bool = True,
        data_checksums: bool = True,
    ) -> RunningCluster:
        cluster = self.track(Cluster(self.directory / name, binaries, os_user=self.os_user))
        checksums = () if data_checksums else ("--no-data-checksums",)
        wanted = Wanted(name, binaries.bindir, None, None, ("--no-sync", *checksums))
        self._templates.copy(wanted, self._maker(wanted, cluster), cluster.data_directory, None)
        made = RunningCluster(cluster, None)
        if start:
            made.start(options)
        return made

    def _copy_of(self, wanted: Wanted, cluster: Cluster) -> Keystore | None:
        if not wanted.is_movable:
            return None
        place = self.directory / f"{wanted.name}-keystore"
        self._templates.copy(wanted, self._maker(wanted, cluster), cluster.data_directory, place)
        keystore = Keystore.open(place, PASSPHRASE)
        self._keystores.append(keystore)
        self._templates.settle(cluster, keystore)
        return keystore

    def _maker(self, wanted: Wanted, like: Cluster) -> Callable[[Path, Path], None]:
        def make(data_directory: Path, place: Path) -> None:
            cluster = Cluster(data_directory, like.binaries, os_user=self.os_user)
            if wanted.scope is None:
                _init(cluster, wanted, None)
                return
            with _new_keystore(place, self.os_user) as keystore:
                _init(cluster, wanted, keystore)

        return make

    def keystore(self, name: str = "keystore") -> Keystore:
        made = _new_keystore(self.directory / name, self.os_user)
        self._keystores.append(made)
        return made

    def track(self, cluster: Cluster) -> Cluster:
        """Clean up after a cluster that a test made itself, for example a standby."""
        self._clusters.append(cluster)
        return cluster

    def close(self) -> None:
        # A stack, so that one failure does not leave other servers running or keys in memory.
        with contextlib.ExitStack() as stack:
            for keystore in self._keystores:
                stack.callback(keystore.close)
            for cluster in self._clusters:
                stack.callback(_stop_for_good, cluster)


def _new_keystore(path: Path, os_user: OsUser | None) -> Keystore:
    owner = None if os_user is None else (os_user.uid, os_user.gid)
    return Keystore.create(path, PASSPHRASE, kdf=CHEAP_KDF, owner=owner)


def _init(cluster: Cluster, wanted: Wanted, keystore: Keystore | None) -> None:
    if "--no-data-checksums" in wanted.initdb_args:
        _init_without_checksums(cluster)
    else:
        cluster.init(
            keystore=keystore,
            scope=wanted.scope or Scope.CLUSTER,
            algorithm=wanted.algorithm or Algorithm.AES256,
            initdb_args=wanted.initdb_args,
        )
    with (cluster.data_directory / "postgresql.conf").open("a") as file:
        file.write(f"port = {_PORT}\n")


def _init_without_checksums(cluster: Cluster) -> None:
    """Make a plain cluster as initdb of 15 to 17 does by itself; tde turns checksums on."""
    no_checksums = ["--no-data-checksums"] if cluster.binaries.major >= 18 else []
    initdb = [cluster.binaries.program("initdb"), "-D", cluster.data_directory, "--no-sync"]
    made = run_as(cluster.os_user, [*initdb, *no_checksums])
    assert made.returncode == 0, made.stderr


def _place_of_clusters(node: pytest.Item | pytest.Collector) -> str:
    """Return a directory in memory, where thousands of short-lived files cost little.

    Not below TMPDIR: its parents may be closed to the server's user.
    """
    on_disk = node.get_closest_marker("on_disk") is not None
    return str(_MEMORY) if _has_memory() and not on_disk else "/tmp"


def _has_memory() -> bool:
    return _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free >= _MEMORY_NEEDED


@contextlib.contextmanager
def _temporary_directory(os_user: OsUser | None, place: str) -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="test-of-tde-", dir=place))
    try:
        if os_user is not None:
            os.chown(directory, os_user.uid, os_user.gid)
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _stop_for_good(cluster: Cluster) -> None:
    """Stop a server in the ordinary way if possible, and kill what is left of it."""
    pid = cluster.pid
    if pid is not None:
        with contextlib.suppress(TdeError):
            cluster.stop("immediate", timeout=20)
    # A test may have removed postmaster.pid, so the processes are also found by directory.
    for process in psutil.process_iter(["name", "cmdline"]):
        words = process.info["cmdline"] or []
        if process.info["name"] == "postgres" and str(cluster.data_directory) in words:
            with contextlib.suppress(psutil.NoSuchProcess):
                for child in process.children():
                    child.kill()
                process.kill()
    for socket in private_directory(cluster.data_directory, cluster.os_user).glob(".s.PGSQL.*"):
        socket.unlink()  # A killed server leaves it behind.
    remove_private_directory(cluster.data_directory, cluster.os_user)
