"""State of a conversion: what is converted, and how far it is (tde_convert/state.json)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

from tde.algorithms import Algorithm
from tde.convert.blocks import Direction
from tde.convert.plan import PlannedFile
from tde.postgres.cluster.scope import Scope
from tde.postgres.cluster.unfinished_conversion import (
    pack_state_document,
    read_state_document,
    state_path,
)
from tde.postgres.server.os_user import OsUser
from tde.postgres.server.owned_files import write_owned_file


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
        turn_on_checksums: whether pages get data checksums, which they had not before.
        plain_files: of plaintext tablespaces, in which pages get checksums only; the journal
            counts them behind ``files``.
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
    turn_on_checksums: bool = False
    plain_files: tuple[PlannedFile, ...] = ()
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
            "turn_on_checksums": self.turn_on_checksums,
            "plain_files": [[file.path, file.size] for file in self.plain_files],
            "worthless": list(self.worthless),
            "key_checks": dict(self.key_checks),
        }
        write_owned_file(state_path(data_directory), pack_state_document(body), os_user)

    def finishing(self) -> State:
        """Return the state after all blocks are converted."""
        return replace(self, phase=Phase.FINISHING)


def read_state(data_directory: Path) -> State | None:
    """Return what is being converted, or None.

    Raises:
        ConversionError: the file is damaged, or of a newer tde.
    """
    body = read_state_document(data_directory)
    if body is None:
        return None
    return State(
        direction=Direction(body["direction"]),
        phase=Phase(body["phase"]),
        keystore_uuid=UUID(hex=body["keystore_uuid"]),
        keystore=Path(body["keystore"]),
        scope=Scope(body["scope"]),
        algorithm=Algorithm[body["algorithm"]],
        tablespaces=tuple(body["tablespaces"]),
        files=tuple(PlannedFile(path, size) for path, size in body["files"]),
        turn_on_checksums=body["turn_on_checksums"],
        plain_files=tuple(PlannedFile(path, size) for path, size in body["plain_files"]),
        worthless=tuple(body["worthless"]),
        key_checks=body["key_checks"],
    )
