"""Which unfinished conversion may be believed.

state.json lies beside the data, and so does pg_control: whoever may write to the volume can make a
healthy cluster look as if it were half decrypted. So a state counts only if it was
written with the keystore that the operator has opened, for this cluster, and if pg_control is as
that conversion leaves it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tde.convert.blocks import Direction
from tde.convert.control_file import control_digest, system_identifier
from tde.convert.keys import key_checks, open_ciphers
from tde.convert.state import State, conversion_key, first_conversion_key, unpack_state
from tde.errors import ClusterKeystoreError, ConversionError
from tde.postgres.cluster.marker import Marker, read_marker
from tde.postgres.cluster.unfinished_conversion import (
    COMMANDS,
    JOURNAL_DIRECTORY,
    MOVED_CONTROL,
    StateDocument,
)
from tde.postgres.server.cluster_files import read_cluster_file

if TYPE_CHECKING:
    from tde.keystore import Keystore

_FIND_OUT = "find out who may write to it, and restore the cluster from a backup."


def state_out_of_service(document: StateDocument, keystore: Keystore, directory: Path) -> State:
    """Return the state of a cluster whose pg_control has its other name.

    Raises:
        ClusterKeystoreError: the conversion was begun with another keystore, or never.
        ConversionError: the state was altered, or is not of this cluster as it is now.
    """
    if document.keystore_uuid != keystore.uuid.hex:
        raise ClusterKeystoreError(
            f"the data directory claims that the conversion of {directory} was begun with the "
            f"keystore {document.keystore_uuid[:32]}, not with {keystore.uuid.hex}",
            remedy=f"If you began it with {document.keystore}: continue with that, or where it is "
            f"now, as --keystore. If you do not know it, {_FIND_OUT}",
        )
    state = _authenticate(document, keystore, directory)
    if control_digest(read_cluster_file(directory, MOVED_CONTROL)) not in state.control:
        raise ConversionError(
            f"{directory / MOVED_CONTROL} is not the file with which the conversion began",
            remedy="Somebody has exchanged, changed or renamed it. Undo that if you know for sure "
            "what it was; otherwise restore the cluster from a backup.",
        )
    return state


def state_in_service(
    document: StateDocument | None, keystore: Keystore, directory: Path
) -> State | None:
    """Return the state that an interruption has left beside a pg_control with its own name.

    One of another keystore decides nothing, and is None.

    Raises:
        ConversionError: the state was altered, or is of another cluster.
    """
    if document is None or document.keystore_uuid != keystore.uuid.hex:
        return None
    return _authenticate(
        document,
        keystore,
        directory,
        "If you have interrupted tde pg encrypt before it changed anything, and rotated the master "
        f"key since: remove {directory / JOURNAL_DIRECTORY}, and begin again. Otherwise restore it "
        "as it was.",
    )


def _authenticate(
    document: StateDocument,
    keystore: Keystore,
    directory: Path,
    remedy: str = "Restore it as it was.",
) -> State:
    keys = (conversion_key(keystore), first_conversion_key(keystore))
    if not any(document.is_authentic(key) for key in keys):
        raise ConversionError(
            f"{document.path} is damaged or was altered: it does not match the keystore "
            f"{keystore.path}",
            remedy=f"Nothing that it says may be believed. {remedy} If you have begun "
            f"no conversion, somebody has written to the volume: {_FIND_OUT}",
        )
    state = unpack_state(document)
    if state.system_identifier != system_identifier(directory):
        raise ConversionError(
            f"{document.path} is of another cluster",
            remedy=f"If you have begun no conversion of {directory}, remove "
            f"{directory / JOURNAL_DIRECTORY}; otherwise restore its own.",
        )
    return state


def require_finished(state: State, keystore: Keystore, directory: Path) -> None:
    """Check that a cluster is as the end of a conversion leaves it: marker, map and keys.

    Raises:
        ConversionError: it is not.
        TdeError: one of them cannot be used.
    """
    marker = read_marker(directory)
    if state.direction is Direction.DECRYPT:
        is_finished = marker is None
    else:
        is_finished = marker is not None and marker.keystore_uuid == keystore.uuid
        if is_finished:
            # Tablespaces may have been made and dropped since.
            with open_ciphers(keystore, directory) as ciphers:
                now = key_checks(ciphers)
            is_finished = all(now.get(oid, was) == was for oid, was in state.key_checks.items())
    if not is_finished:
        command = COMMANDS[state.direction.value]
        raise ConversionError(
            f"{directory / JOURNAL_DIRECTORY} is left of a {command} that had done its work, "
            f"but the cluster is not {state.direction.value}ed now",
            remedy="If it was converted again since, and has all of its data: remove "
            f"{directory / JOURNAL_DIRECTORY}. Otherwise restore tde.json and the configuration "
            "as they were.",
        )


def encrypted_already(directory: Path, marker: Marker) -> ConversionError:
    """Return the error for a cluster that is to be encrypted and is encrypted."""
    return ConversionError(
        f"the cluster {directory} is encrypted already, with the keystore "
        f"{marker.keystore_uuid.hex}",
        remedy="There is nothing to do.",
    )


def lost_journal(directory: Path) -> ConversionError:
    """Return the error for a cluster that is partly converted, and nothing says how far."""
    path = directory / JOURNAL_DIRECTORY / "state.json"
    return ConversionError(
        f"a conversion is unfinished, but {path} is missing",
        remedy="Restore the directory from where it was moved to, or the cluster from a backup. "
        "Without it nobody can tell which blocks are encrypted.",
    )
