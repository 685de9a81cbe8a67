"""A PostgreSQL cluster: create it, start and stop it, look at it.

The same class runs plain clusters (``keystore=None``) and encrypted ones, so that a benchmark
compares servers that were started in exactly the same way.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tde.algorithms import Algorithm
from tde.errors import DataDirectoryError, ServerNotRunningError, ServerStartError, TdeError
from tde.postgres.cluster.initialize import initialize_cluster, require_creatable
from tde.postgres.cluster.lock import cluster_lock
from tde.postgres.cluster.marker import Marker, marker_in_use
from tde.postgres.cluster.scope import Scope
from tde.postgres.cluster.starting import require_usable_keystore, start_cluster
from tde.postgres.cluster.status import ClusterStatus, read_cluster_status
from tde.postgres.cluster.unfinished_conversion import require_not_converting
from tde.postgres.server.binaries import PostgresBinaries, find_binaries
from tde.postgres.server.control import read_major_version
from tde.postgres.server.launch import stop_server
from tde.postgres.server.os_user import OsUser, server_os_user, user_name
from tde.postgres.server.pidfile import (
    PostmasterFile,
    read_postmaster_file,
    read_server_arguments,
)
from tde.postgres.server.reachable import reachable_binaries
from tde.postgres.server.server_log import default_log
from tde.postgres.server.sockets import (
    private_directory,
    remove_private_directory,
    split_socket_argument,
)

if TYPE_CHECKING:
    from tde.keystore import Keystore

DEFAULT_TIMEOUT = 60.0  # Seconds; the default of pg_ctl.


class Cluster:
    """One data directory and the PostgreSQL installation that serves it.

    Args:
        data_directory: PGDATA; need not exist before :meth:`init`.
        binaries: the installation; by default the first one found that fits the cluster.
        os_user: the user that runs the server; by default :func:`server_os_user` decides.
    """

    def __init__(
        self,
        data_directory: Path,
        binaries: PostgresBinaries | None = None,
        *,
        os_user: OsUser | None = None,
    ) -> None:
        self.data_directory = Path(data_directory).absolute()
        self.os_user = os_user or server_os_user(self.data_directory)
        self._binaries = binaries
        self._usable: PostgresBinaries | None = None  # What `binaries` has found.

    @property
    def binaries(self) -> PostgresBinaries:
        """The installation in use, copied to where the server's user can reach it if need be.

        Raises:
            BinariesNotFoundError: none fits the cluster's major version.
        """
        exists = (self.data_directory / "PG_VERSION").exists()
        major = read_major_version(self.data_directory) if exists else None
        usable = self._usable
        # As root the check runs a program as the server's user, so its result is kept.
        if usable is None or (major is not None and usable.major != major):
            usable = self._usable = reachable_binaries(self._find_binaries(major), self.os_user)
        return usable

    def _find_binaries(self, major: int | None) -> PostgresBinaries:
        if self._binaries is None:
            return find_binaries(major=major)
        if major is None or self._binaries.major == major:
            return self._binaries
        return find_binaries(self._binaries.bindir, major=major)

    @property
    def pid(self) -> int | None:
        """Process id of the running postmaster, or ``None``."""
        running = read_postmaster_file(self.data_directory)
        return None if running is None else running.pid

    @property
    def marker(self) -> Marker | None:
        """What tde.json says, with the keystore where a running server has it; else ``None``."""
        return marker_in_use(self.data_directory)

    @property
    def default_log(self) -> Path:
        """Where the server's output goes when nothing else is asked for."""
        return default_log(self.data_directory, self.os_user)

    def require_creatable(self, keystore: Path | None) -> None:
        """Check that :meth:`init` can begin, before somebody types a passphrase for it.

        Raises:
            TdeError: the same errors as :meth:`init`.
        """
        require_creatable(self.data_directory, self.os_user, keystore)

    def init(
        self,
        *,
        keystore: Keystore | None,
        scope: Scope = Scope.CLUSTER,
        algorithm: Algorithm = Algorithm.AES256,
        initdb_args: Sequence[str] = (),
    ) -> None:
        """Create the cluster with initdb, with data checksums.

        Args:
            keystore: an open keystore without keys, which then serves this cluster; ``None``
                creates a cluster without encryption.
            scope: what is encrypted besides the WAL.
            algorithm: for the WAL and, in scope ``CLUSTER``, the built-in tablespaces.
            initdb_args: more arguments for initdb. Without ``--auth`` every local user may connect
                as the superuser (initdb's default); ``tde pg init`` gives ``peer``.

        Raises:
            DataDirectoryError: the directory is not empty or not usable.
            ClusterKeystoreError: the keystore serves another cluster, is closed, belongs to
                another user, or lies inside the data directory.
            UnsupportedServerError: the build has other page or segment sizes.
            ProgramError: initdb failed; the directory and the new keys are removed again.
        """
        initialize_cluster(
            self.data_directory,
            self.binaries,
            self.os_user,
            keystore=keystore,
            scope=scope,
            algorithm=algorithm,
            initdb_args=initdb_args,
        )

    def start(
        self,
        keystore: Keystore | None,
        *,
        options: Mapping[str, str] | None = None,
        server_arguments: Sequence[str] = (),
        log: Path | None = None,
        environment: Mapping[str, str] | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        stock_socket: bool = False,
        closed: bool = False,
    ) -> None:
        """Start the server and return when it accepts connections.

        For an encrypted cluster, returning also means that the interposer is active.

        Args:
            keystore: the open keystore of an encrypted cluster, ``None`` for a plain one.
            options: settings for the command line, as ``{"shared_buffers": "1GB"}``.
            server_arguments: other arguments of postgres, placed before the settings.
            log: file for the server's output; :attr:`default_log` when ``None``. It is not
                encrypted, so keep it out of backups.
            environment: variables on top of the current environment.
            timeout: seconds to wait.
            stock_socket: also listen in the socket directory that a plain psql looks in, when
                it is free. A private directory is always used unless the configuration or
                ``options`` name another.
            closed: sessions use only the built-in tablespaces until the keystore is opened.

        Raises:
            NoDataDirectoryError: there is no cluster.
            ClusterKeystoreError: the keystore is not the cluster's, lacks keys, or lies inside it.
            UnsupportedServerError: the build or its configuration cannot be encrypted.
            ServerStillStartingError: it is alive and encrypts, but is not ready in time.
            ServerStartError: it runs already, or did not start.
            ClusterBusyError: another command is starting, stopping or creating it.
            InterposerError: the interposer is missing or not active.
            DamagedPagesError: the cluster was shut down and its catalogs cannot be read.
        """
        self.require_stopped()
        arguments = [*server_arguments]
        for name, value in (options or {}).items():
            arguments += ["-c", f"{name}={value}"]
        with cluster_lock(self.data_directory):
            self._start(keystore, arguments, log, environment, timeout, stock_socket, closed)

    def _start(
        self,
        keystore: Keystore | None,
        arguments: list[str],
        log: Path | None,
        environment: Mapping[str, str] | None,
        timeout: float,
        stock_socket: bool,
        closed: bool = False,
    ) -> None:
        """Start the server; the caller holds the lock."""
        self.require_stopped()
        try:
            start_cluster(
                self.data_directory,
                self.binaries,
                self.os_user,
                keystore=keystore,
                arguments=arguments,
                log=log,
                environment=environment,
                timeout=timeout,
                stock_socket=stock_socket,
                closed=closed,
            )
        except TdeError:
            if keystore is not None:
                # A rotation that ended meanwhile is the cause of whatever it was.
                keystore.require_current_master_key()
            raise

    def stop(self, mode: str = "fast", *, timeout: float = DEFAULT_TIMEOUT) -> None:
        """Stop the server and return when it is gone.

        Args:
            mode: ``smart``, ``fast`` or ``immediate``, as pg_ctl defines them.
            timeout: seconds to wait.

        Raises:
            ServerNotRunningError: there is none.
            ServerStopError: it still runs.
            ClusterBusyError: another command is starting or stopping it.
        """
        self._require_running()
        # A start that still waits for its server may end in that time.
        with cluster_lock(self.data_directory, timeout=timeout):
            self._stop(mode, timeout)

    def _stop(self, mode: str, timeout: float) -> None:
        """Stop the server; the caller holds the lock."""
        self._require_running()
        stop_server(self.data_directory, self.binaries, self.os_user, mode=mode, timeout=timeout)
        remove_private_directory(self.data_directory, self.os_user)

    def restart(
        self,
        keystore: Keystore | None,
        *,
        mode: str = "fast",
        options: Mapping[str, str] | None = None,
        log: Path | None = None,
        environment: Mapping[str, str] | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> None:
        """Stop the server if it runs and start it with the arguments of the last start.

        The keystore is checked before the server is stopped, so a wrong one costs no downtime.

        Args:
            options: settings that replace the earlier arguments, as for :meth:`start`.

        Raises:
            ServerStartError: besides the reasons of :meth:`start`, the server was stopped and
                did not start again; the message says that it is down.
        """
        require_usable_keystore(self.data_directory, keystore, self.os_user)
        with cluster_lock(self.data_directory):
            self._restart(keystore, mode, options, log, environment, timeout)

    def _restart(
        self,
        keystore: Keystore | None,
        mode: str,
        options: Mapping[str, str] | None,
        log: Path | None,
        environment: Mapping[str, str] | None,
        timeout: float,
    ) -> None:
        """Restart the server; the caller holds the lock."""
        earlier = read_server_arguments(self.data_directory)
        private = private_directory(self.data_directory, self.os_user)
        arguments, stock_socket = split_socket_argument(earlier, private)
        if options:
            arguments = [part for item in options.items() for part in ("-c", "=".join(item))]
        stopped = self.pid is not None
        if stopped:
            self._stop(mode, timeout)
        try:
            self._start(keystore, arguments, log, environment, timeout, stock_socket)
        except TdeError as error:
            if not stopped or self.pid is not None:
                raise
            raise ServerStartError(
                f"the server in {self.data_directory} was stopped and is now DOWN: {error}",
                remedy=error.remedy,
            ) from error

    def status(self, keystore: Path | None = None) -> ClusterStatus:
        """Return what is known about the cluster without connecting to it or opening keys.

        Args:
            keystore: where the keystore is now; where it was at creation when ``None``.

        Raises:
            NoDataDirectoryError: there is no cluster.
        """
        # Without a cluster that is the error, whatever installation there is.
        read_major_version(self.data_directory)
        return read_cluster_status(self.data_directory, self.binaries, self.os_user, keystore)

    def connection_parameters(self, dbname: str = "postgres") -> dict[str, object]:
        """Return arguments for ``psycopg2.connect`` as the superuser that initdb made.

        Raises:
            ServerNotRunningError: there is no server.
        """
        running = self._require_running()
        host = running.socket_directory or running.listen_address
        if host in ("*", "0.0.0.0", "::"):
            host = "localhost"
        # initdb names the superuser after the user that runs it, who owns the directory.
        owner = user_name(self.data_directory.stat().st_uid)
        return {"host": host, "port": running.port, "user": owner, "dbname": dbname}

    def require_stopped(self) -> None:
        """Check that there is a cluster of the server's user and that its server does not run.

        Raises:
            NoDataDirectoryError: there is no cluster.
            ConversionError: it is partly encrypted, by an interrupted conversion.
            DataDirectoryError: it belongs to somebody who does not run the server.
            ServerStartError: it runs.
        """
        read_major_version(self.data_directory)
        self._require_owner()
        require_not_converting(self.data_directory)
        pid = self.pid
        if pid is not None:
            raise ServerStartError(
                f"the server in {self.data_directory} is already running (pid {pid})"
            )

    def _require_owner(self) -> None:
        """Refuse the directory that root has unpacked: the server cannot even look into it."""
        owner = self.data_directory.stat().st_uid
        uid = os.geteuid() if self.os_user is None else self.os_user.uid
        if owner != uid:
            name = user_name(uid)
            raise DataDirectoryError(
                f"the data directory {self.data_directory} belongs to {user_name(owner)}, and the "
                f"server would run as {name}",
                remedy=f"chown -R {name} {self.data_directory}, or run tde as the owner, who must "
                "be an ordinary user.",
            )

    def _require_running(self) -> PostmasterFile:
        read_major_version(self.data_directory)
        running = read_postmaster_file(self.data_directory)
        if running is None:
            raise ServerNotRunningError(
                f"no server is running in {self.data_directory}",
                remedy="Start it with tde pg start.",
            )
        return running
