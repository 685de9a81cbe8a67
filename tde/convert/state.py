"""What is being converted: tde_convert/state.json, and the name of pg_control meanwhile.

While a cluster is a mixture, no server may start on it, with or without tde. Without
global/pg_control none does, and no tool of PostgreSQL touches the cluster; so it has another
name from before the first block is changed until after the last.
"""

from __future__ import annotations

import json
import os
import sys
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

from tde.algorithms import Algorithm
from tde.convert.blocks import Direction
from tde.convert.journal import JOURNAL_DIRECTORY, sync_directory
from tde.convert.plan import PlannedFile
from tde.errors import ConversionError
from tde.postgres.cluster.keys import Scope
from tde.postgres.server.os_user import OsUser
from tde.postgres.server.owned_files import write_owned_file

CONTROL = "global/pg_control"
MOVED_CONTROL = "global/pg_control.tde-converting"

_FORMAT = "tde-convert"
_VERSION = 1


class Phase(str, Enum):
    """How far a conversion is."""

    CONVERTING = "converting"
    """Nothing is changed until pg_control is moved, blocks are overwritten from then on."""
    FINISHING = "finishing"
    """All blocks are converted and synced; pg_control may be back."""


@dataclass(frozen=True)
class State:
    """The content of state.json.

    Attributes:
        tablespaces: OIDs that the operator named, for scope ``tablespaces``.
        files: what is converted, in the order that the journal numbers refer to.
        worthless: temporary files that are removed.
        key_checks: what identifies the keys, once they exist.
    """

    direction: Direction
    phase: Phase
    keystore_uuid: UUID
    keystore: Path
    scope: Scope
    algorithm: Algorithm
    tablespaces: tuple[int, ...]
    files: tuple[PlannedFile, ...]
    worthless: tuple[str, ...] = ()
    key_checks: Mapping[str, str] = field(default_factory=dict)

    def write(self, data_directory: Path, os_user: OsUser | None) -> None:
        """Write the state durably, replacing what was there."""
        body: dict[str, Any] = {
            "direction": self.direction.value,
            "phase": self.phase.value,
            "keystore_uuid": self.keystore_uuid.hex,
            "keystore": str(self.keystore),
            "scope": self.scope.value,
            "algorithm": self.algorithm.name,
            "tablespaces": list(self.tablespaces),
            "files": [[file.path, file.size] for file in self.files],
            "worthless": list(self.worthless),
            "key_checks": dict(self.key_checks),
        }
        document = {
            "format": _FORMAT,
            "version": _VERSION,
            "checksum": _checksum(body),
            "conversion": body,
        }
        write_owned_file(_path(data_directory), json.dumps(document, indent=1) + "\n", os_user)

    def finishing(self) -> State:
        """Return the state after all blocks are converted."""
        return replace(self, phase=Phase.FINISHING)


def read_state(data_directory: Path) -> State | None:
    """Return what is being converted, or None.

    Raises:
        ConversionError: the file is damaged, or of a newer tde.
    """
    path = _path(data_directory)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        raise _damaged(path, "it is not the state of a conversion")
    if document.get("version") != _VERSION:
        raise ConversionError(
            f"{path} has version {document.get('version')}, which this tde does not know",
            remedy="Finish the conversion with the version of tde that began it.",
        )
    body = document.get("conversion")
    if not isinstance(body, dict) or document.get("checksum") != _checksum(body):
        raise _damaged(path, "its checksum is wrong")
    return State(
        direction=Direction(body["direction"]),
        phase=Phase(body["phase"]),
        keystore_uuid=UUID(hex=body["keystore_uuid"]),
        keystore=Path(body["keystore"]),
        scope=Scope(body["scope"]),
        algorithm=Algorithm[body["algorithm"]],
        tablespaces=tuple(body["tablespaces"]),
        files=tuple(PlannedFile(path, size) for path, size in body["files"]),
        worthless=tuple(body["worthless"]),
        key_checks=body["key_checks"],
    )


def is_control_moved(data_directory: Path) -> bool:
    """Tell whether the cluster may be a mixture, so that no server may start.

    Raises:
        ConversionError: there is neither or both of the two names.
    """
    here = os.path.lexists(data_directory / CONTROL)
    moved = os.path.lexists(data_directory / MOVED_CONTROL)
    if here == moved:
        raise ConversionError(
            f"{data_directory} has {'both' if here else 'neither'} {CONTROL} "
            f"{'and' if here else 'nor'} {MOVED_CONTROL}",
            remedy="Somebody has copied, moved or removed one of them. Restore the cluster from a "
            "backup, or undo that change if you know for sure what it was.",
        )
    return moved


def take_out_of_service(data_directory: Path, control: bytes) -> None:
    """Hide pg_control from servers, if none has run since its content was ``control``.

    A server that starts at this moment either has made postmaster.pid before pg_control is
    moved, and is found here, or it does not find pg_control.

    Raises:
        ConversionError: a server runs, or ran since; pg_control has its name again.
    """
    move_control(data_directory, back=False)
    changed = (data_directory / MOVED_CONTROL).read_bytes() != control
    if changed or os.path.lexists(data_directory / "postmaster.pid"):
        move_control(data_directory, back=True)
        raise ConversionError(
            f"a server was started on {data_directory} in the last moments",
            remedy="Stop it and repeat the command. No file of the cluster has been changed.",
        )


def move_control(data_directory: Path, *, back: bool) -> None:
    """Hide pg_control from servers and tools, or bring it back; durable on return."""
    names = (data_directory / CONTROL, data_directory / MOVED_CONTROL)
    source, target = reversed(names) if back else names
    source.rename(target)
    sync_directory(target.parent)


def moved_catalog_version(data_directory: Path) -> int:
    """Read the number of the system catalogs' layout while pg_control has its other name.

    pg_controldata would not find the file. It begins with the system identifier (8 bytes), its
    own version and this number (4 bytes each), in the byte order of the machine.
    """
    with (data_directory / MOVED_CONTROL).open("rb") as file:
        return int.from_bytes(file.read(16)[12:], sys.byteorder)


def require_not_converting(data_directory: Path) -> None:
    """Refuse a cluster that is a mixture of encrypted and plain blocks.

    Raises:
        ConversionError: with the command that finishes the conversion.
    """
    if not (data_directory / MOVED_CONTROL).exists():
        return
    state = read_state(data_directory)
    command = "encrypt" if state is None else state.direction.value
    raise ConversionError(
        f"the cluster {data_directory} is only partly {command}ed: tde pg {command} was "
        "interrupted",
        remedy=f"Finish it: tde pg {command} -D {data_directory}",
    )


def _path(data_directory: Path) -> Path:
    return data_directory / JOURNAL_DIRECTORY / "state.json"


def _checksum(body: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(body, sort_keys=True).encode())


def _damaged(path: Path, reason: str) -> ConversionError:
    return ConversionError(
        f"{path} cannot be used: {reason}",
        remedy="Restore this file, or the whole cluster, from a backup. Do not remove it: "
        "it says which files are being converted.",
    )
