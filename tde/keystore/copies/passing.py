"""A copy of a keystore as one stream of bytes, for another machine.

It holds what a backup holds: each key wrapped by the master key, the envelopes of providers, and
never auto-open.key. The other side believes none of it: names and sizes are checked here, keys
where they are added.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from tde.errors import KeystoreDamagedError, KeystoreError
from tde.keystore.copies.content import read_content
from tde.keystore.log.entry import LONGEST_LOG
from tde.keystore.log.writing import write_entry
from tde.keystore.store.files import exclusive_lock, read_private_file
from tde.keystore.store.layout import (
    LOG_NAME,
    LONGEST_FILE,
    document_path,
    keys_path,
    record_path,
    unlock_path,
)
from tde.keystore.store.reading import read_document

# A keystore has a record for each tablespace; more than this are no keystore.
_MOST_FILES = 200_000


def pack_copy(path: Path, destination: str) -> bytes:
    """Return the files of a keystore, of one moment; it stays closed.

    Args:
        path: the keystore's directory.
        destination: where they go, for the key log.

    Raises:
        KeystoreError: it cannot be read.
    """
    path = path.resolve()
    read_document(path)  # A missing keystore must not get a lock file.
    with exclusive_lock(path):
        content = read_content(path, with_auto_open=False)
        write_entry(path, "back up keystore", {"to": destination, "auto-open.key": False}, None)
        log = read_private_file(path / LOG_NAME, LONGEST_LOG)
    records = {record_path(path, owner): data for owner, data in content.records.items()}
    names = {str(file.relative_to(path)): data for file, data in records.items()}
    # The document comes last: a stream that ends early is none of a keystore.
    return _pack(
        {**names, **content.others, LOG_NAME: log, document_path(path).name: content.document}
    )


def unpack_copy(stream: BinaryIO, directory: Path) -> None:
    """Write the files of a stream into a directory, which is new and only this user's.

    Raises:
        KeystoreDamagedError: the stream ends too early, or has what no keystore has.
        OSError: a file cannot be written.
    """
    for subdirectory in (keys_path(directory), unlock_path(directory)):
        subdirectory.mkdir(mode=0o700)
    count = 0
    try:
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                count += 1
                _require_file_of_keystore(member, count)
                content = archive.extractfile(member)
                assert content is not None  # It is an ordinary file.
                _write(directory / member.name, content.read())
    except (tarfile.TarError, EOFError) as error:
        raise _unusable(str(error)) from error
    if not document_path(directory).exists():
        raise _unusable("it has no keystore.json")
    if not any(unlock_path(directory).iterdir()):
        unlock_path(directory).rmdir()


def _pack(files: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            member.mode = 0o600
            archive.addfile(member, io.BytesIO(data))
    return packed.getvalue()


def _require_file_of_keystore(member: tarfile.TarInfo, count: int) -> None:
    """Refuse a name that leads elsewhere, and what would fill the disk or the memory."""
    parts = PurePosixPath(member.name).parts
    is_below = len(parts) == 2 and parts[0] in ("keys", "unlock")
    is_beside = len(parts) == 1
    longest = LONGEST_LOG if member.name == LOG_NAME else LONGEST_FILE
    if (
        not member.isreg()
        or not (is_below or is_beside)
        or ".." in parts
        or member.name != "/".join(parts)
        or not 0 <= member.size <= longest
        or count > _MOST_FILES
    ):
        raise _unusable(f"it has {member.name!r}, which is no file of a keystore")


def _write(path: Path, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
            file.write(data)
    except FileExistsError as error:
        raise _unusable(f"it has {path.name!r} twice") from error


def _unusable(why: str) -> KeystoreError:
    return KeystoreDamagedError(
        f"what has arrived is no copy of a keystore: {why}",
        remedy="Nothing was changed. Repeat tde keystore sync.",
    )
