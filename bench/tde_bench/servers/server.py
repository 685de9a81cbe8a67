"""A server under test, whoever runs it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

from tde_bench.configurations import Configuration
from tde_bench.servers.database import Connection
from tde_bench.servers.labelled_connections import labelled_connection

DATABASE = "tde_bench"


class Server(ABC):
    """One server under test, with a database of its own for the benchmark."""

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration

    @property
    @abstractmethod
    def dsn(self) -> str:
        """Connection string of the benchmark's database, without a password."""

    @property
    @abstractmethod
    def password(self) -> str | None:
        """The password, when the server asks for one."""

    @property
    @abstractmethod
    def postmaster_pid(self) -> int | None:
        """Process number of the postmaster; None when it runs elsewhere or is hidden."""

    @property
    def helper_pids(self) -> tuple[int, ...]:
        """Processes outside the server that work for it alone, such as a filesystem's daemon."""
        return ()

    @property
    @abstractmethod
    def data_directory(self) -> Path | None:
        """The data directory; None when this process cannot read it."""

    @property
    @abstractmethod
    def can_checkpoint(self) -> bool:
        """Tell whether the connection may run CHECKPOINT."""

    @abstractmethod
    def close(self) -> None:
        """Remove what the benchmark created."""

    @abstractmethod
    def renew(self) -> None:
        """Start the server anew if it is the benchmark's own; connections to it end."""

    @property
    @abstractmethod
    def client_environment(self) -> dict[str, str]:
        """The environment for programs that connect to the server, with a password if needed."""

    def connect(self) -> Connection:
        """Open a psycopg2 connection to the benchmark's database in autocommit mode.

        Raises:
            BenchError: when the server cannot be reached or refuses.
        """
        return labelled_connection(self.configuration.label, self.dsn, self.password)
