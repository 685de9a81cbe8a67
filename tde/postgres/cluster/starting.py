"""Starting the server of a cluster: what must hold before, and what must be true of it then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tde.errors import ProgramError, ServerStartError, ServerStillStartingError
from tde.machine.checks import warn_of_machine
from tde.postgres.cluster.accepted_lines import LinesOfStart
from tde.postgres.cluster.catalog_pages import require_readable_catalogs
from tde.postgres.cluster.configuration import configuration_arguments, require_ordinary_files
from tde.postgres.cluster.guard import ensure_guards
from tde.postgres.cluster.key_log import tell_of_cluster
from tde.postgres.cluster.keys import require_cluster_keys
from tde.postgres.cluster.keys_of_pages import require_keys_of_map
from tde.postgres.cluster.keystore_place import (
    require_keystore_access,
    require_not_of_keystore,
    require_separate,
)
from tde.postgres.cluster.landed_keys import ensure_map
from tde.postgres.cluster.marker import read_marker, require_matching_keystore
from tde.postgres.cluster.unfinished_conversion import warn_of_left_journal
from tde.postgres.facts import CLEAN_STATES
from tde.postgres.server.binaries import PostgresBinaries
from tde.postgres.server.build import require_supported_build
from tde.postgres.server.control import read_control_data, read_major_version
from tde.postgres.server.launch import program_environment, require_interposer, start_server
from tde.postgres.server.os_user import OsUser
from tde.postgres.server.pidfile import read_postmaster_file, read_whole_arguments
from tde.postgres.server.server_log import default_log, prepare_log
from tde.postgres.server.sockets import remove_private_directory
from tde.postgres.server.start_settings import StartSettings

if TYPE_CHECKING:
    from tde.keystore import Keystore


def start_cluster(
    data_directory: Path,
    binaries: PostgresBinaries,
    os_user: OsUser | None,
    *,
    keystore: Keystore | None,
    arguments: Sequence[str],
    log: Path | None,
    environment: Mapping[str, str] | None,
    timeout: float,
    stock_socket: bool,
    closed: bool = False,
) -> None:
    """Start a stopped server, whose cluster the caller has locked.

    See :meth:`tde.postgres.cluster.cluster.Cluster.start` for the errors.
    """
    require_usable_keystore(data_directory, keystore, os_user)
    warn_of_left_journal(data_directory)
    read_whole_arguments(data_directory)  # The server writes over this file.
    require_ordinary_files(data_directory, arguments)
    arguments = [*arguments, *configuration_arguments(data_directory, arguments)]
    if keystore is not None:
        ensure_map(data_directory, keystore, os_user)
        ensure_guards(data_directory, keystore.path, arguments, os_user)
        tell_of_cluster(keystore, data_directory)
    with program_environment(keystore, os_user, environment, closed=closed) as program:
        settings = StartSettings(data_directory, binaries, os_user, arguments, program)
        if keystore is not None:
            require_supported_build(binaries, os_user)
        settings.require_own_directory()
        if keystore is not None:
            settings.require_supported()
            for what, path in settings.written_files():
                require_not_of_keystore(path, keystore.path, what)
            _require_readable_catalogs(data_directory, binaries, os_user, keystore)
            warn_of_machine()
        own_log = log is None
        log = (log or default_log(data_directory, os_user)).absolute()
        if keystore is not None:
            require_not_of_keystore(log, keystore.path, f"the log {log}")
        if own_log:
            prepare_log(log, os_user)
        arguments += settings.socket_arguments(stock_socket)
        lines = None
        if keystore is not None:
            lines = LinesOfStart(data_directory, keystore, arguments)
            lines.tell(log, os_user)
        late: ServerStillStartingError | None = None
        try:
            start_server(
                data_directory, binaries, os_user, arguments, program, log=log, timeout=timeout
            )
        except ServerStillStartingError as error:
            late = error
        except ServerStartError:
            remove_private_directory(data_directory, os_user)
            raise
    if keystore is not None:
        _confirm_encryption(data_directory, binaries, os_user, keystore)
    if lines is not None:
        lines.accept()
    if late is not None:
        raise late


def require_usable_keystore(
    data_directory: Path, keystore: Keystore | None, os_user: OsUser | None
) -> None:
    """Check that the keystore is the cluster's, complete, and readable by the server.

    Raises:
        NoDataDirectoryError: there is no cluster.
        ClusterKeystoreError: the keystore is not the cluster's, lacks keys, or lies inside it.
    """
    read_major_version(data_directory)
    uuid = None if keystore is None else keystore.uuid
    require_matching_keystore(data_directory, read_marker(data_directory), uuid)
    if keystore is not None:
        require_cluster_keys(keystore, data_directory)
        require_separate(data_directory, keystore.path)
        require_keystore_access(keystore.path, os_user)


def _require_readable_catalogs(
    data_directory: Path, binaries: PostgresBinaries, os_user: OsUser | None, keystore: Keystore
) -> None:
    """Read pages of a cluster that was shut down, as the server will."""
    try:
        control = read_control_data(data_directory, binaries, os_user)
    except ProgramError:
        return  # The server says what is wrong with pg_control.
    if control.state in CLEAN_STATES:
        require_readable_catalogs(data_directory, keystore)
    require_keys_of_map(data_directory, keystore)


def _confirm_encryption(
    data_directory: Path, binaries: PostgresBinaries, os_user: OsUser | None, keystore: Keystore
) -> None:
    """Check the new server, ready or not, and remember where its keystore is now."""
    running = read_postmaster_file(data_directory)
    if running is None:
        raise ServerStartError(
            f"the server in {data_directory} ended just after its start",
            remedy="See the server's log.",
        )
    require_interposer(data_directory, binaries, os_user, running.pid)
    marker = read_marker(data_directory)
    path = keystore.path.resolve()
    if marker is not None and marker.keystore != path:
        # Later commands look for the keystore where this server reads new keys.
        replace(marker, keystore=path).write(data_directory, os_user)
