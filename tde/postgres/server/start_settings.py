"""Settings that are looked at before a start: what cannot be encrypted, and the socket's place."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tde.errors import ConfigurationFileError, UnsupportedServerError
from tde.postgres.facts import MAJOR_VERSIONS
from tde.postgres.server.binaries import PostgresBinaries
from tde.postgres.server.file_user import files_as
from tde.postgres.server.launch import ProgramEnvironment
from tde.postgres.server.os_user import OsUser
from tde.postgres.server.settings import build_setting, cluster_setting
from tde.postgres.server.sockets import (
    SETTING,
    create_private_directory,
    is_configured,
    usable_stock_directory,
)


def unsupported_settings(
    value: Callable[[str], str], major: int
) -> Iterator[UnsupportedServerError]:
    """Yield a refusal for each setting with which rows would get past the interposer.

    Args:
        value: returns the value of a setting.
        major: version of the server, which decides what settings there are.
    """
    if value("dynamic_shared_memory_type") == "mmap":
        yield UnsupportedServerError(
            "dynamic_shared_memory_type = mmap cannot be encrypted: the server maps the files "
            "of pg_dynshmem, in which parallel queries exchange rows, into its memory",
            remedy="Set dynamic_shared_memory_type to posix or sysv.",
        )
    if "io_method" in MAJOR_VERSIONS[major].settings and value("io_method") == "io_uring":
        yield UnsupportedServerError(
            "io_method = io_uring cannot be encrypted: it bypasses the C library",
            remedy="Set io_method to worker or sync.",
        )


@dataclass(frozen=True)
class StartSettings:
    """The settings that a server would have if it started now.

    Attributes:
        arguments: what will be on its command line.
        program: its environment, with the interposer in it for an encrypted cluster.
    """

    data_directory: Path
    binaries: PostgresBinaries
    os_user: OsUser | None
    arguments: Sequence[str]
    program: ProgramEnvironment

    def require_own_directory(self) -> None:
        """Refuse a configuration with which the server would run in another data directory.

        Raises:
            ConfigurationFileError: it names one.
        """
        named = self._value("data_directory")
        if os.path.realpath(named) != os.path.realpath(self.data_directory):
            raise ConfigurationFileError(
                f"the server of {self.data_directory} would run in another directory: its "
                f"configuration, or its arguments, name data_directory = '{named}'",
                remedy="If that is right, name that directory with -D. If the line is not yours, "
                "remove it, and find out who may write to the volume.",
            )

    def written_files(self) -> Iterator[tuple[str, Path]]:
        """Yield what settings name that the server will write, each with words for a message."""
        if pid_file := self._value("external_pid_file"):
            yield f"external_pid_file = '{pid_file}'", self.data_directory / pid_file
        directory, name = self._value("log_directory"), self._value("log_filename")
        path = self.data_directory / directory
        yield f"log_directory = '{directory}'", path
        # A pattern for strftime(3), of which the time is not known; its directory is.
        yield f"log_filename = '{name}'", path / name

    def require_supported(self) -> None:
        """Refuse settings with which rows would get past the interposer.

        Raises:
            UnsupportedServerError: with the setting and the value to choose instead.
        """
        for refusal in unsupported_settings(self._value, self.binaries.major):
            raise refusal

    def socket_arguments(self, stock_socket: bool) -> list[str]:
        """Return the arguments that place the socket when the administrator has not done it.

        Args:
            stock_socket: also use the directory that was compiled in, when it is free.
        """
        stock = build_setting(SETTING, self.binaries, self.os_user)
        if self._value(SETTING) != stock:
            return []
        configuration = Path(self._value("config_file"))
        with files_as(self.os_user):
            if is_configured(self.data_directory, configuration):
                return []
        directories = [create_private_directory(self.data_directory, self.os_user)]
        if stock_socket:
            port = int(self._value("port"))
            usable = usable_stock_directory(stock, port, self.os_user)
            if usable is not None:
                # The first one is what postmaster.pid tells to tde psql.
                directories.insert(0, usable)
        return ["-c", f"{SETTING}={','.join(map(str, directories))}"]

    def _value(self, name: str) -> str:
        return cluster_setting(
            name,
            self.data_directory,
            self.arguments,
            self.binaries,
            self.os_user,
            environment=self.program.variables,
            pass_fds=self.program.pass_fds,
        )
