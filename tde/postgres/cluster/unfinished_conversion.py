"""Conversions that ``tde pg encrypt`` or ``tde pg decrypt`` began and did not finish.

Such a cluster is a mixture of encrypted and plain blocks, so every command has to know of it.
:mod:`tde.convert` converts; here is what shows to others: pg_control has another name, so that
neither a server nor a tool of PostgreSQL finds it, and the directory of the conversion's journal
has a file that says what was begun.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

from tde.errors import ConversionError, ProgramError
from tde.postgres.server.binaries import PostgresBinaries
from tde.postgres.server.cluster_files import read_cluster_file
from tde.postgres.server.control import ControlData, read_control_data
from tde.postgres.server.os_user import OsUser

JOURNAL_DIRECTORY = "tde_convert"
MOVED_CONTROL = "global/pg_control.tde-converting"

_FORMAT = "tde-convert"
_VERSION = 1
_LONGEST_STATE = 1 << 30  # Bytes; it names every file of the cluster.


def require_not_converting(data_directory: Path) -> None:
    """Refuse a cluster that is a mixture of encrypted and plain blocks.

    Raises:
        ConversionError: with the command that finishes the conversion.
    """
    if not (data_directory / MOVED_CONTROL).exists():
        return
    state = read_state_document(data_directory)
    command = "encrypt" if state is None else state["direction"]
    raise ConversionError(
        f"the cluster {data_directory} is only partly {command}ed: tde pg {command} was "
        "interrupted",
        remedy=f"Finish it: tde pg {command} -D {data_directory}",
    )


def read_finished_control_data(
    data_directory: Path, binaries: PostgresBinaries, os_user: OsUser | None
) -> ControlData:
    """Return what pg_control says; that it has another name is told as what it means.

    Raises:
        ConversionError: tde pg encrypt or decrypt was interrupted and is unfinished.
        ProgramError: pg_controldata failed, for example on a damaged pg_control.
    """
    try:
        return read_control_data(data_directory, binaries, os_user)
    except ProgramError:
        require_not_converting(data_directory)
        raise


def state_path(data_directory: Path) -> Path:
    """Return the path of state.json."""
    return data_directory / JOURNAL_DIRECTORY / "state.json"


def read_state_document(data_directory: Path) -> dict[str, Any] | None:
    """Return what tde_convert/state.json says of an unfinished conversion, or None.

    Raises:
        ConversionError: the file is damaged, or of a newer tde.
    """
    path = state_path(data_directory)
    try:
        name = str(path.relative_to(data_directory))
        document = json.loads(read_cluster_file(data_directory, name, _LONGEST_STATE))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
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
    return body


def pack_state_document(body: dict[str, Any]) -> str:
    """Return the text of state.json with a checksum over what is in it."""
    document = {
        "format": _FORMAT,
        "version": _VERSION,
        "checksum": _checksum(body),
        "conversion": body,
    }
    return json.dumps(document, indent=1) + "\n"


def _checksum(body: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(body, sort_keys=True).encode())


def _damaged(path: Path, reason: str) -> ConversionError:
    return ConversionError(
        f"{path} cannot be used: {reason}",
        remedy="Restore this file, or the whole cluster, from a backup. Do not remove it: "
        "it says which files are being converted.",
    )
