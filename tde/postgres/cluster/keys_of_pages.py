"""Pages that tell of an older key map: they fit another key of the keystore than the map says.

Each state that a map ever had is authentic. One from before a rekey would have a server read noise,
and write with the old key. That a page fits another key is a proof, while a page that fits none may
be damaged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tde.errors import DataDirectoryError, KeyMapError, KeystoreError
from tde.page.identity import FileIdentity
from tde.postgres.cluster.keymap import KEYMAP_FILE, map_key, read_map
from tde.postgres.cluster.landed_keys import is_page_of, sample_pages
from tde.postgres.cluster.links import tablespace_oids
from tde.postgres.cluster.marker import read_marker
from tde.postgres.cluster.page_ciphers import page_cipher
from tde.postgres.facts import BUILT_IN_TABLESPACES
from tde.postgres.server.pidfile import read_postmaster_file

if TYPE_CHECKING:
    from tde.algorithms import Algorithm
    from tde.keystore import KeyOwner, Keystore

NEWER_MAP_REMEDY = (
    f"The map is of before tde tablespace rekey, or of another server: put the newest "
    f"{KEYMAP_FILE} back, from a base backup of today or where it was moved to. Do not use "
    "pg_resetwal."
)

#: A page as it is stored, and where.
StoredPage = tuple[FileIdentity, bytes]


def require_keys_of_map(data_directory: Path, keystore: Keystore) -> None:
    """Check that the files of no tablespace have another key than the map says.

    One page of the right key is enough. After a crash any page may be torn, and then fits none.

    Raises:
        KeyMapError: they have.
        KeystoreError: a key is missing or cannot be used.
    """
    keymap = read_map(data_directory, keystore.uuid, map_key(keystore))
    for oid in sorted({*BUILT_IN_TABLESPACES, *tablespace_oids(data_directory)}):
        if keymap.find(oid) is None:
            continue
        try:
            pages = list(sample_pages(data_directory, oid))
        except (OSError, DataDirectoryError):
            continue  # The server will say what it thinks of such a file.
        if not pages or _fit(keymap.key_of(keystore, oid), pages):
            continue
        if key := key_of_pages(keystore, pages):
            raise KeyMapError(
                f"the files of tablespace {oid} have another key than "
                f"{data_directory / KEYMAP_FILE} says: they fit keys/{key} of the keystore",
                remedy=NEWER_MAP_REMEDY,
            )


def require_keys_of_stopped(data_directory: Path, keystore: Keystore) -> None:
    """Check the same before a program works on a cluster; nothing to do while its server runs.

    Programs that turn checksums on write into pages without looking at them first.

    Raises:
        KeyMapError, KeystoreError: as :func:`require_keys_of_map`.
    """
    marker = read_marker(data_directory)
    if marker is not None and read_postmaster_file(data_directory) is None:
        require_keys_of_map(data_directory, keystore)


def key_of_pages(keystore: Keystore, pages: Sequence[StoredPage]) -> str:
    """Return the file of a key of the keystore that one of the pages fits; empty if none does."""
    oid = pages[0][0].tablespace
    assert oid is not None  # These are pages of relations.
    for owner, found in _candidates(keystore, oid):
        if found is not None and _fit(found, pages):
            return owner.file_name
    return ""


def _candidates(
    keystore: Keystore, oid: int
) -> Iterator[tuple[KeyOwner, tuple[Algorithm, bytearray] | None]]:
    from tde.keystore import KeyOwner
    from tde.keystore.store.reading import list_owners

    with suppress(KeystoreError):
        yield KeyOwner.other_tablespaces(), keystore.derived_key(oid)
    for owner in list_owners(keystore.path):
        if owner.key_id is not None or owner == KeyOwner.tablespace(oid):
            with suppress(KeystoreError):
                yield owner, keystore.key_of(owner)


def _fit(found: tuple[Algorithm, bytearray] | None, pages: Sequence[StoredPage]) -> bool:
    """Tell whether one of the pages fits a key, which is wiped; all fit a plaintext entry."""
    if found is None:
        return True
    with page_cipher(found) as cipher:
        return any(is_page_of(cipher, *page) for page in pages)
