"""tde.json in an encrypted data directory: which keystore belongs to the cluster.

The marker is a hint for finding and checking the keystore. It decides nothing about what is
encrypted: that is in the authenticated key records.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID

from tde.errors import ClusterKeystoreError, DataDirectoryError
from tde.postgres.cluster.scope import Scope
from tde.postgres.server.cluster_files import read_cluster_file
from tde.postgres.server.os_user import OsUser, current_user_name
from tde.postgres.server.owned_files import write_owned_file
from tde.postgres.server.pidfile import read_postmaster_file
from tde.postgres.server.published import read_published_status

MARKER_FILE = "tde.json"
_FORMAT = "tde-cluster"
_VERSION = 2
# What was written before there was a key map; such a cluster gets one at its next start.
_VERSION_WITHOUT_MAP = 1


@dataclass(frozen=True)
class Marker:
    """The content of tde.json.

    Attributes:
        keystore_uuid: the keystore that has the cluster's keys.
        keystore: where that keystore was at the last start with tde, or at the creation.
        scope: what the cluster was created to encrypt.
        has_map: whether tde.keymap says what key each tablespace has. Where it should and the file
            is missing, nothing may be guessed.
    """

    keystore_uuid: UUID
    keystore: Path
    scope: Scope
    has_map: bool = True

    @property
    def hint(self) -> str:
        """Where to look for the keystore, in words for people."""
        if self.keystore.exists():
            return f"Its keystore was last used at {self.keystore}."
        return (
            f"Its keystore is no longer at {self.keystore}: name the directory where it is now "
            "with --keystore."
        )

    def text(self) -> str:
        """Return the content of the file; the C program of `tde pg install-bin` reads it too."""
        document = {
            "format": _FORMAT,
            "version": _VERSION if self.has_map else _VERSION_WITHOUT_MAP,
            "keystore_uuid": self.keystore_uuid.hex,
            "keystore": str(self.keystore),
            "scope": self.scope.value,
        }
        return json.dumps(document, indent=2) + "\n"

    def write(self, data_directory: Path, os_user: OsUser | None) -> None:
        """Write the marker into a data directory."""
        write_owned_file(data_directory / MARKER_FILE, self.text(), os_user)


def read_marker(data_directory: Path) -> Marker | None:
    """Return the marker, or ``None`` for a cluster that is not encrypted.

    Raises:
        DataDirectoryError: the marker is there and cannot be used.
    """
    path = data_directory / MARKER_FILE
    try:
        content = read_cluster_file(data_directory, MARKER_FILE)
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise DataDirectoryError(
            f"{path} may not be read by {current_user_name()}",
            remedy="Run tde as the owner of the data directory, or as root.",
        ) from error
    except OSError as error:
        raise _damaged(path, str(error)) from error
    return parse_marker(content, path)


def marker_in_use(data_directory: Path) -> Marker | None:
    """Return the marker with the place where a running server has its keystore.

    A base backup remembers the place on its primary's machine, and only tde itself corrects that:
    a server that a cluster manager starts from the directory of tde pg install-bin has its own.

    Raises:
        DataDirectoryError: as :func:`read_marker`.
    """
    marker = read_marker(data_directory)
    running = None if marker is None else read_postmaster_file(data_directory)
    if marker is None or running is None:
        return marker
    try:
        status = read_published_status(running.pid)
    except OSError:
        return marker  # Another user's server: what it says is told by who asks for it.
    keys = None if status is None else status.keys
    if keys is None or keys.keystore != marker.keystore_uuid:
        return marker
    return replace(marker, keystore=keys.keystore_path)


def parse_marker(content: bytes, path: Path) -> Marker:
    """Return the marker in ``content``; ``path`` names it in messages.

    Raises:
        DataDirectoryError: it cannot be used.
    """
    try:
        document = json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        raise _damaged(path, "it is not a tde cluster marker")
    version = document.get("version")
    if version not in (_VERSION_WITHOUT_MAP, _VERSION):
        raise DataDirectoryError(
            f"{path} has version {version}, which this tde does not know",
            remedy="Use the version of tde that the cluster was created with, or a newer one.",
        )
    try:
        return Marker(
            keystore_uuid=UUID(hex=document["keystore_uuid"]),
            keystore=Path(document["keystore"]),
            scope=Scope(document["scope"]),
            has_map=version == _VERSION,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(path, f"bad or missing field: {error}") from error


def require_matching_keystore(
    data_directory: Path, marker: Marker | None, keystore_uuid: UUID | None
) -> None:
    """Check that a cluster is used with its own keystore, or without one if it is not encrypted.

    Raises:
        ClusterKeystoreError: it is not.
    """
    if marker is None:
        if keystore_uuid is not None:
            raise ClusterKeystoreError(
                f"the cluster {data_directory} is not encrypted, but a keystore was given",
                remedy="Start it without the keystore; tde pg init creates encrypted clusters.",
            )
        return
    if keystore_uuid is None:
        raise ClusterKeystoreError(
            f"the cluster {data_directory} is encrypted and needs its keystore",
            remedy=marker.hint,
        )
    if keystore_uuid != marker.keystore_uuid:
        raise ClusterKeystoreError(
            f"the keystore {keystore_uuid.hex} does not belong to the cluster {data_directory}, "
            f"which was created with the keystore {marker.keystore_uuid.hex}",
            remedy=marker.hint,
        )


def _damaged(path: Path, reason: str) -> DataDirectoryError:
    return DataDirectoryError(
        f"{path} cannot be read: {reason}",
        remedy="Restore it from a backup of the data directory; it holds no secrets.",
    )
