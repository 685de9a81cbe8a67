"""Conversions that ``tde pg encrypt``, ``decrypt`` or ``tde tablespace rekey`` did not finish.

Such a cluster is a mixture of encrypted and plain blocks, or of blocks under two keys, so every
command has to know of it. :mod:`tde.convert` converts; here is what shows to others: pg_control has
another name, so that neither a server nor a tool of PostgreSQL finds it, and the directory of the
conversion's journal has a file that says what was begun.

Whoever may write to the volume can write that file and rename pg_control too. So the file is
authenticated with a key from the keystore, and commands that have no key say that it *claims*
something.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
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
_VERSION = 2
# Of a rekey, with which earlier releases could not go on.
_VERSION_OF_REKEY = 3
# Of releases that did not authenticate it.
_VERSION_WITHOUT_CODE = 1
_LONGEST_STATE = 1 << 30  # Bytes; it names every file of the cluster.
REKEY = "rekey"
COMMANDS = {
    "encrypt": "tde pg encrypt",
    "decrypt": "tde pg decrypt",
    REKEY: "tde tablespace rekey",
}
"""The command of each direction of a conversion."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StateDocument:
    """What state.json says. Nothing of it may be believed before :meth:`is_authentic`.

    Attributes:
        body: what is being converted; only :mod:`tde.convert` knows all of it.
        code: authenticates the body.
    """

    path: Path
    body: Mapping[str, Any]
    code: str

    @property
    def command(self) -> str:
        """The command that the file claims to be of; empty for what is no such command."""
        return COMMANDS.get(str(self.body.get("direction")), "")

    @property
    def keystore_uuid(self) -> str:
        """The UUID, in hexadecimal digits, of the keystore that the file claims to be of."""
        return str(self.body.get("keystore_uuid"))

    @property
    def keystore(self) -> str:
        """Where the file claims that keystore to be, fit to be shown."""
        claimed = str(self.body.get("keystore"))
        return claimed if claimed.isprintable() else ascii(claimed)

    def is_authentic(self, key: bytes) -> bool:
        """Tell whether the file was written by somebody with the key, and never changed."""
        return hmac.compare_digest(_code(self.body, key).encode(), self.code.encode())


def require_not_converting(data_directory: Path) -> None:
    """Refuse a cluster that is a mixture of encrypted and plain blocks.

    Raises:
        ConversionError: with the command that finishes the conversion.
    """
    if not (data_directory / MOVED_CONTROL).exists():
        return
    document = read_state_document(data_directory)
    if document is None:
        raise ConversionError(
            f"the cluster {data_directory} is only partly converted, or somebody has renamed its "
            f"pg_control: it is {MOVED_CONTROL}, and {state_path(data_directory)} is missing",
            remedy="If you have begun a conversion, restore what is missing. If nobody has, "
            f"rename it to global/pg_control, and find out who may write to {data_directory}.",
        )
    command = document.command or COMMANDS["encrypt"]
    raise ConversionError(
        f"the cluster {data_directory} is only partly converted: its files claim that {command} "
        "was interrupted",
        remedy="Whoever may write to the volume can claim that. If you, or somebody you trust, "
        f"began it, finish it: {command} -D {data_directory} --keystore DIR, with the "
        "keystore that was used then. If nobody did, do not: somebody has changed the cluster.",
    )


def left_journal(data_directory: Path) -> str:
    """Return what to say about a journal that a cluster in service has; empty if it has none."""
    journal = data_directory / JOURNAL_DIRECTORY
    if (data_directory / MOVED_CONTROL).exists() or not journal.exists():
        return ""
    try:
        document = read_state_document(data_directory)
    except ConversionError:
        document = None
    command = (document.command if document else "") or COMMANDS["encrypt"]
    return f"{journal} is left of a {command} that was interrupted in its first or last step"


def left_journal_remedy(data_directory: Path) -> str:
    """Return what to do about it."""
    return (
        "If you began that command, give it again with its keystore: it checks and ends what is "
        "unfinished. Otherwise, if the cluster has all of its data, remove "
        f"{data_directory / JOURNAL_DIRECTORY}."
    )


def warn_of_left_journal(data_directory: Path) -> None:
    """Log it when a cluster that is about to start has the journal of a conversion."""
    if message := left_journal(data_directory):
        _log.warning("%s. %s", message, left_journal_remedy(data_directory))


def read_finished_control_data(
    data_directory: Path, binaries: PostgresBinaries, os_user: OsUser | None
) -> ControlData:
    """Return what pg_control says; that it has another name is told as what it means.

    Raises:
        ConversionError: a conversion was interrupted and is unfinished.
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


def read_state_document(data_directory: Path) -> StateDocument | None:
    """Return what tde_convert/state.json says of an unfinished conversion, or None.

    Raises:
        ConversionError: the file is damaged, or of another version of tde.
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
    version = document.get("version")
    if version == _VERSION_WITHOUT_CODE:
        raise _of_earlier_release(data_directory)
    if version not in (_VERSION, _VERSION_OF_REKEY):
        raise ConversionError(
            f"{path} has version {version}, which this tde does not know",
            remedy="Finish the conversion with the version of tde that began it.",
        )
    body, code = document.get("conversion"), document.get("code")
    if not isinstance(body, dict) or document.get("checksum") != _checksum(body):
        raise _damaged(path, "its checksum is wrong")
    if not isinstance(code, str) or not code.isascii():
        raise _damaged(path, "it has no code")
    return StateDocument(path, body, code)


def pack_state_document(body: dict[str, Any], key: bytes) -> str:
    """Return the text of state.json.

    The checksum finds damage without the key, the code everything else.
    """
    document = {
        "format": _FORMAT,
        "version": _VERSION_OF_REKEY if body["direction"] == REKEY else _VERSION,
        "checksum": _checksum(body),
        "code": _code(body, key),
        "conversion": body,
    }
    return json.dumps(document, indent=1) + "\n"


def _canonical(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, sort_keys=True).encode()


def _checksum(body: Mapping[str, Any]) -> int:
    return zlib.crc32(_canonical(body))


def _code(body: Mapping[str, Any], key: bytes) -> str:
    return hmac.new(key, _canonical(body), hashlib.sha256).hexdigest()


def _damaged(path: Path, reason: str) -> ConversionError:
    return ConversionError(
        f"{path} cannot be used: {reason}",
        remedy="Restore this file, or the whole cluster, from a backup. Do not remove it: "
        "it says which files are being converted.",
    )


def _of_earlier_release(data_directory: Path) -> ConversionError:
    in_service = not (data_directory / MOVED_CONTROL).exists()
    return ConversionError(
        f"{state_path(data_directory)} is of an earlier release of tde, which did not "
        "authenticate it: who may write to the volume could have made it",
        remedy=(
            "pg_control has its name, so no server is kept from the cluster: if it has all of its "
            f"data, remove {data_directory / JOURNAL_DIRECTORY}, and use a new keystore to encrypt."
            if in_service
            else "If you know that you began this conversion, finish it with the release that "
            "began it. Otherwise restore the cluster from a backup."
        ),
    )
