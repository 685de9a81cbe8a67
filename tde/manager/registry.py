"""The servers that the manager knows: a name and a data directory each."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tde.errors import TdeError
from tde.file_lock import lock_until
from tde.postgres.server.debian_layout import DebianCluster, debian_clusters
from tde.postgres.server.owned_files import write_owned_file

_FILE = "servers.json"
_LONGEST_LABEL = 100
_MOST = 1000
_PATIENCE = 5.0  # Seconds.


@dataclass(frozen=True)
class Server:
    """One server.

    Attributes:
        id: stands in addresses of pages.
        label: what people call it.
        backup_directory: where its backups go, if somebody has said so.
        keystore: of its cluster, as somebody has said or seen. What the cluster's own files say may
            be changed by others, and the keys would go to them.
    """

    id: str
    label: str
    data_directory: Path
    backup_directory: Path | None = None
    keystore: Path | None = None


class Registry:
    """The list, in a file of the manager's directory."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / _FILE

    def all(self) -> list[Server]:
        """Return the servers in the order of their names.

        Raises:
            TdeError: the file is damaged.
        """
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
            servers = [_server(entry) for entry in found["servers"]]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise TdeError(
                f"the list of servers cannot be read: {error}",
                remedy=f"Move {self._path} away, and register the servers again.",
            ) from error
        return sorted(servers, key=lambda one: one.label.casefold())

    def find(self, server_id: str) -> Server | None:
        """Return the server of an id."""
        return next((one for one in self.all() if one.id == server_id), None)

    def unknown(self) -> list[DebianCluster]:
        """Return the clusters of Debian's tools that are not in the list."""
        known = {one.data_directory for one in self.all()}
        return [one for one in debian_clusters() if one.data_directory not in known]

    def add(
        self,
        label: str,
        data_directory: Path,
        backup_directory: Path | None = None,
        keystore: Path | None = None,
    ) -> Server:
        """Add a server.

        Raises:
            TdeError: the name or a directory cannot be used, or it is in the list already.
        """
        made = Server(
            secrets.token_hex(4), label.strip(), data_directory, backup_directory, keystore
        )
        _require_usable(made)
        with self._changing() as servers:
            if len(servers) >= _MOST:
                raise TdeError(f"the manager knows {_MOST} servers already")
            for one in servers:
                if one.data_directory == made.data_directory:
                    raise TdeError(f"{made.data_directory} is registered already, as {one.label}")
                if one.label.casefold() == made.label.casefold():
                    raise TdeError(f"another server is called {one.label}")
            servers.append(made)
        return made

    def change(
        self, server_id: str, label: str, backup_directory: Path | None, keystore: Path | None
    ) -> None:
        """Give a server another name, place for backups, or keystore.

        Raises:
            TdeError: the name or the directory cannot be used.
        """
        with self._changing() as servers:
            for number, one in enumerate(servers):
                if one.id == server_id:
                    changed = replace(
                        one,
                        label=label.strip(),
                        backup_directory=backup_directory,
                        keystore=keystore,
                    )
                    _require_usable(changed)
                    servers[number] = changed

    def remove(self, server_id: str) -> None:
        """Forget a server; nothing of it is touched."""
        with self._changing() as servers:
            servers[:] = [one for one in servers if one.id != server_id]

    @contextmanager
    def _changing(self) -> Iterator[list[Server]]:
        """Yield the list; what is left of it is written, at once or not at all."""
        lock = self._path.with_name(f"{_FILE}.lock")
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if not lock_until(descriptor, time.monotonic() + _PATIENCE):
                raise TdeError(
                    f"another manager has the list of servers locked for {_PATIENCE:.0f} seconds",
                    remedy=f"Find that process with `fuser -v {lock}`, then repeat this.",
                )
            servers = self.all()
            yield servers
            document = {"version": 1, "servers": [_entry(s) for s in servers]}
            write_owned_file(self._path, json.dumps(document), None)
        finally:
            os.close(descriptor)


def _server(entry: dict[str, str | None]) -> Server:
    backup, keystore = entry.get("backup_directory"), entry.get("keystore")
    return Server(
        str(entry["id"]),
        str(entry["label"]),
        Path(str(entry["data_directory"])),
        Path(backup) if backup else None,
        Path(keystore) if keystore else None,
    )


def _entry(server: Server) -> dict[str, str | None]:
    return {name: None if value is None else str(value) for name, value in asdict(server).items()}


def _require_usable(server: Server) -> None:
    if not 0 < len(server.label) <= _LONGEST_LABEL or not server.label.isprintable():
        raise TdeError(f"a name has 1 to {_LONGEST_LABEL} characters, all of them printable")
    for path in (server.data_directory, server.backup_directory, server.keystore):
        if path is not None and (
            not path.is_absolute() or ".." in path.parts or not str(path).isprintable()
        ):
            raise TdeError(f"{str(path)!r} is no absolute path of a directory")
