"""The settings of a cluster: asked of its running server, else of its configuration files.

``postgres -C`` reads the files of an encrypted cluster only under the interposer with keys,
because of the guard in them (:mod:`tde.postgres.cluster.guard`). The cluster's own keys would
need a passphrase, so keys are made for this and thrown away: ``-C`` reads no encrypted file.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tde.algorithms import Algorithm
from tde.errors import ProgramError, TdeError
from tde.postgres.cluster.cluster import Cluster
from tde.postgres.cluster.configuration import (
    configuration_arguments,
    configuration_files,
    require_ordinary_files,
)
from tde.postgres.cluster.guard import has_guard
from tde.postgres.cluster.keys import create_initial_keys
from tde.postgres.cluster.questions import ask_server
from tde.postgres.cluster.scope import Scope
from tde.postgres.facts import MAJOR_VERSIONS
from tde.postgres.server.file_user import files_as
from tde.postgres.server.launch import ProgramEnvironment, program_environment
from tde.postgres.server.os_user import OsUser
from tde.postgres.server.pidfile import read_server_arguments
from tde.postgres.server.settings import cluster_setting

SETTINGS = (
    *("full_page_writes", "wal_log_hints", "dynamic_shared_memory_type", "primary_conninfo"),
    *("shared_preload_libraries", "session_preload_libraries", "local_preload_libraries"),
    *("archive_mode", "archive_command", "archive_library"),
    *("log_destination", "log_min_messages", "log_statement"),
    *("log_min_error_statement", "log_error_verbosity", "log_min_duration_statement"),
    *("log_min_duration_sample", "log_transaction_sample_rate"),
    "log_parameter_max_length_on_error",
    *("debug_print_parse", "debug_print_rewritten", "debug_print_plan"),
    *("pg_stat_statements.track_utility", "auto_explain.log_min_duration"),
    *("pgaudit.log", "pgaudit.log_statement", "pgaudit.role"),
)
_NEWER_SETTINGS = ("io_method", "debug_print_raw_parse")
_UNKNOWN_SETTING = "unrecognized configuration parameter"
# Not TMPDIR, which may be closed to the server's user.
_TEMPORARY = Path("/tmp")


@dataclass(frozen=True)
class Settings:
    """Settings as the server prints them, in its base units.

    Attributes:
        values: ``None`` for one that the server does not have.
        source: where they come from, in words for people.
        obstacle: why they are not those of the server that runs; empty when they are, or when
            none runs.
    """

    values: Mapping[str, str | None]
    source: str
    obstacle: str = ""

    def value(self, name: str) -> str:
        """Return a setting; empty when the server does not have it."""
        return self.values.get(name) or ""

    def is_on(self, name: str) -> bool:
        """Tell whether a Boolean setting is on."""
        return self.value(name) == "on"


def read_settings(cluster: Cluster, *, username: str | None) -> Settings:
    """Read the settings of a cluster.

    Args:
        username: the database user to connect as; by default the superuser that initdb made.

    Raises:
        TdeError: the configuration has an error, or may not be read.
    """
    newer = MAJOR_VERSIONS[cluster.binaries.major].settings
    names = (*SETTINGS, *(name for name in _NEWER_SETTINGS if name in newer))
    obstacle = ""
    if cluster.pid is not None:
        try:
            return Settings(_ask_server(cluster, names, username), "the running server")
        except (TdeError, OSError, ValueError, subprocess.TimeoutExpired) as error:
            obstacle = str(error)
    values = _ask_files(cluster, names)
    return Settings(values, "the configuration files", obstacle)


def _ask_server(
    cluster: Cluster, names: Sequence[str], username: str | None
) -> dict[str, str | None]:
    # Settings of a module that this session has not loaded are not in pg_settings.
    query = (
        "SELECT json_object_agg(n, coalesce((SELECT setting FROM pg_settings WHERE name = n), "
        f"current_setting(n, true))) FROM unnest('{{{','.join(names)}}}'::text[]) n"
    )
    values: dict[str, str | None] = ask_server(cluster, query, username=username)
    return values


def _ask_files(cluster: Cluster, names: Sequence[str]) -> dict[str, str | None]:
    arguments = read_server_arguments(cluster.data_directory)
    require_ordinary_files(cluster.data_directory, arguments)
    arguments += configuration_arguments(cluster.data_directory, arguments)
    # Where there is no file at all, postgres will say so.
    with files_as(cluster.os_user):
        guarded = any(has_guard(path) for path in configuration_files(cluster.data_directory))
    with _configuration_environment(cluster.os_user, guarded=guarded) as program:
        return {name: _ask_for(name, cluster, arguments, program) for name in names}


def _ask_for(
    name: str, cluster: Cluster, arguments: Sequence[str], program: ProgramEnvironment
) -> str | None:
    try:
        return cluster_setting(
            name,
            cluster.data_directory,
            arguments,
            cluster.binaries,
            cluster.os_user,
            environment={**program.variables, "LC_ALL": "C"},
            pass_fds=program.pass_fds,
        )
    except ProgramError as error:
        if f'{_UNKNOWN_SETTING} "{name}"' in str(error):
            return None
        raise


@contextlib.contextmanager
def _configuration_environment(
    os_user: OsUser | None, *, guarded: bool
) -> Iterator[ProgramEnvironment]:
    """Yield the environment in which postgres reads its configuration, guard included."""
    if not guarded:
        with program_environment(None, os_user) as program:
            yield program
        return
    from tde.keystore import KdfParameters, Keystore

    directory = _TEMPORARY / f"tde-doctor-{os.getpid()}-{secrets.token_hex(8)}"
    owner = None if os_user is None else (os_user.uid, os_user.gid)
    cheap = KdfParameters(memory_kib=8 * 1024, iterations=1, lanes=1)
    try:
        with Keystore.create(directory, secrets.token_bytes(32), kdf=cheap, owner=owner) as made:
            create_initial_keys(made, Scope.CLUSTER, Algorithm.AES256)
            with program_environment(made, os_user) as program:
                yield program
    finally:
        shutil.rmtree(directory, ignore_errors=True)
