"""State of a conversion: what is converted, and how far it is (tde_convert/state.json)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from tde.algorithms import Algorithm
from tde.convert.blocks import Direction
from tde.convert.key_changes import KeyChange, parse_changes
from tde.convert.plan import PlannedFile
from tde.postgres.cluster.scope import Scope
from tde.postgres.cluster.unfinished_conversion import (
    StateDocument,
    pack_state_document,
    state_path,
)
from tde.postgres.server.os_user import OsUser
from tde.postgres.server.owned_files import write_owned_file

if TYPE_CHECKING:
    from tde.keystore import Keystore

LABEL = b"tde conversion"


def conversion_key(keystore: Keystore) -> bytes:
    """Return the key that authenticates state.json and the journal.

    It comes from the key of WAL, which outlives a rotation of the master key. Before a conversion
    has made that key it comes from the master key: state.json then says whose keys they are that
    lie in the keystore at the next attempt.

    Raises:
        KeystoreError: the keystore was closed, or the key of WAL does not open.
    """
    from tde.errors import KeyMissingError

    try:
        return keystore.authentication_key(LABEL)
    except KeyMissingError:
        return first_conversion_key(keystore)


def first_conversion_key(keystore: Keystore) -> bytes:
    """Return the key that authenticates what was written before there was a key of WAL.

    Raises:
        KeystoreClosedError: the keystore was closed.
    """
    return keystore.first_authentication_key(LABEL)


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
        tablespaces: OIDs that the operator named, for scope ``tablespaces``; of a rekey, all that
            get another key.
        tablespace_names: the OIDs of what he named them with. The names stand in a catalog that
            may be encrypted already when the command is repeated.
        files: what is converted, in the order that the journal numbers refer to.
        turn_on_checksums: whether pages get data checksums, which they had not before.
        plain_files: of plaintext tablespaces, in which pages get checksums only; the journal
            counts them behind ``files``.
        system_identifier: of the cluster, as in pg_control.
        control: digests of the contents that pg_control may have while it has its other name;
            none before it is moved.
        conversion: a name that no other conversion has.
        key_checks: what identifies the keys, once they exist.
        changes: the keys that a rekey replaces.
        wal_keys: ids of the keys of segments that do not have the first key of WAL, by their path.
    """

    direction: Direction
    phase: Phase
    keystore_uuid: UUID
    keystore: Path
    scope: Scope
    algorithm: Algorithm
    tablespaces: tuple[int, ...]
    files: tuple[PlannedFile, ...]
    system_identifier: int
    tablespace_names: Mapping[str, int] = field(default_factory=dict)
    turn_on_checksums: bool = False
    plain_files: tuple[PlannedFile, ...] = ()
    control: tuple[str, ...] = ()
    conversion: str = field(default_factory=lambda: uuid4().hex)
    key_checks: Mapping[str, str] = field(default_factory=dict)
    changes: tuple[KeyChange, ...] = ()
    wal_keys: Mapping[str, UUID] = field(default_factory=dict)

    def write(self, data_directory: Path, os_user: OsUser | None, key: bytes) -> None:
        """Write the state durably, replacing what was there.

        Args:
            key: authenticates it; :func:`conversion_key` has it.
        """
        body: dict[str, Any] = {
            "direction": self.direction.value,
            "phase": self.phase.value,
            "keystore_uuid": self.keystore_uuid.hex,
            "keystore": str(self.keystore),
            "scope": self.scope.value,
            "algorithm": self.algorithm.name,
            "tablespaces": list(self.tablespaces),
            "tablespace_names": dict(self.tablespace_names),
            "files": [[file.path, file.size] for file in self.files],
            "turn_on_checksums": self.turn_on_checksums,
            "plain_files": [[file.path, file.size] for file in self.plain_files],
            "system_identifier": self.system_identifier,
            "control": list(self.control),
            "conversion": self.conversion,
            "key_checks": dict(self.key_checks),
        }
        if self.changes:
            body["changes"] = [change.as_json() for change in self.changes]
        if self.wal_keys:
            body["wal_keys"] = {path: key_id.hex for path, key_id in self.wal_keys.items()}
        write_owned_file(state_path(data_directory), pack_state_document(body, key), os_user)

    @property
    def asked_tablespaces(self) -> set[int]:
        """OIDs of what the operator named; a rekey has nothing to do in some of them."""
        return set(self.tablespace_names.values()) or set(self.tablespaces)

    def finishing(self, control: str) -> State:
        """Return the state after all blocks are converted.

        Args:
            control: digest of what is about to be written to pg_control.
        """
        allowed = tuple(dict.fromkeys([*self.control, control]))
        return replace(self, phase=Phase.FINISHING, control=allowed)


def unpack_state(document: StateDocument) -> State:
    """Return what a document that is authentic says."""
    body = document.body
    return State(
        direction=Direction(body["direction"]),
        phase=Phase(body["phase"]),
        keystore_uuid=UUID(hex=body["keystore_uuid"]),
        keystore=Path(body["keystore"]),
        scope=Scope(body["scope"]),
        algorithm=Algorithm[body["algorithm"]],
        tablespaces=tuple(body["tablespaces"]),
        tablespace_names=body.get("tablespace_names", {}),  # Earlier releases did not write it.
        files=tuple(PlannedFile(path, size) for path, size in body["files"]),
        turn_on_checksums=body["turn_on_checksums"],
        plain_files=tuple(PlannedFile(path, size) for path, size in body["plain_files"]),
        system_identifier=body["system_identifier"],
        control=tuple(body["control"]),
        conversion=body["conversion"],
        key_checks=body["key_checks"],
        changes=parse_changes(body.get("changes", ())),
        wal_keys={path: UUID(hex=key_id) for path, key_id in body.get("wal_keys", {}).items()},
    )
