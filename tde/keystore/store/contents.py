"""What lies in a keystore beside its keys: envelopes, companions, remains, and what is not ours."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from uuid import UUID

from tde.errors import KeystorePermissionError
from tde.keystore.store.files import LOCK_NAME, check_private_directory, refuse_link
from tde.keystore.store.layout import (
    AUTO_OPEN_NAME,
    DESTROYING,
    INDEX_NAME,
    LOG_NAME,
    document_path,
    envelope_path,
    keys_path,
    record_path,
    unlock_path,
)
from tde.keystore.store.names import owner_of_file
from tde.keystore.store.reading import left_of_rotation, list_owners

_ENVELOPE = re.compile(r"([a-z][a-z0-9-]{0,30})\.([0-9a-f]{32})\.json")
# What a person has accepted of a cluster's configuration (tde/postgres/cluster/accepted_lines.py).
_COMPANION = re.compile(r"accepted-lines\.[0-9a-f]{32}")
_REMAINS = re.compile(r"\..*\.tmp")


def list_envelopes(directory: Path) -> list[tuple[str, UUID]]:
    """Return the names of all envelopes and whose master key each has, in order of name.

    Those of another master key than that of keystore.json are what a rotation has left, or was
    interrupted before. Files with other names are passed over.

    Raises:
        KeystorePermissionError: their directory is open to others, not ours, or a link.
    """
    place = unlock_path(directory)
    if not os.path.lexists(place):
        return []
    refuse_link(place)
    check_private_directory(place)
    found = (_ENVELOPE.fullmatch(file.name) for file in place.iterdir())
    return sorted((match[1], UUID(hex=match[2])) for match in found if match)


def current_envelopes(directory: Path, master_key_id: UUID) -> list[Path]:
    """Return the files of the envelopes of a master key."""
    envelopes = list_envelopes(directory)
    return [envelope_path(directory, *one) for one in envelopes if one[1] == master_key_id]


def is_envelope_name(name: str) -> bool:
    """Tell whether an envelope may have this name."""
    return _ENVELOPE.fullmatch(f"{name}.{'0' * 32}.json") is not None


def being_destroyed(directory: Path) -> list[Path]:
    """Return the records whose destruction was begun and not finished."""
    keys = keys_path(directory)
    try:
        # As text: to make paths of thousands of names takes longer than to read the directory.
        with os.scandir(keys) as entries:
            names = [entry.name for entry in entries if entry.name.endswith(DESTROYING)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [keys / name for name in sorted(names) if owner_of_file(name[: -len(DESTROYING)])]


def companions(directory: Path) -> list[Path]:
    """Return the files that are kept beside the keys and are none: accepted lines of clusters."""
    return sorted(path for path in directory.iterdir() if _COMPANION.fullmatch(path.name))


def is_remains(name: str) -> bool:
    """Tell whether a file is what a writer that died has left."""
    return _REMAINS.fullmatch(name) is not None


def remains(directory: Path) -> list[Path]:
    """Return what writers that died have left; nothing reads it."""
    return [path for path in _entries(directory) if _REMAINS.fullmatch(path.name)]


def foreign_files(directory: Path) -> list[Path]:
    """Return what is not a keystore's, in its directory and in that of the records."""
    keys = keys_path(directory)
    ours = {keys, *(directory / name for name in (LOCK_NAME, AUTO_OPEN_NAME, LOG_NAME))}
    ours |= {document_path(directory), directory / INDEX_NAME}
    ours |= set(left_of_rotation(directory))
    ours |= {*companions(directory), *remains(directory), *being_destroyed(directory)}
    ours |= {record_path(directory, owner) for owner in list_owners(directory)}
    ours.add(unlock_path(directory))
    with suppress(KeystorePermissionError):  # What is wrong with its rights is told elsewhere.
        ours |= {envelope_path(directory, *envelope) for envelope in list_envelopes(directory)}
    return [path for path in _entries(directory) if path not in ours]


def _entries(directory: Path) -> list[Path]:
    places = (keys_path(directory), unlock_path(directory))
    inner = [place for place in places if place.is_dir() and not place.is_symlink()]
    return sorted(path for place in (directory, *inner) for path in place.iterdir())
