"""A look at the catalogs' first pages before a server starts on them.

A server that cannot read its catalogs starts all the same, and then refuses every login. So a
start reads the first page of some catalogs of every kind (those that all databases share, and
those of each database) with the keys that the server will use.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tde import _core
from tde.closing import Closing
from tde.errors import DamagedPagesError
from tde.page.codec import PAGE_SIZE
from tde.page.identity import FileIdentity
from tde.page.libcrypto import make_cipher
from tde.postgres.cluster.keymap import KEYMAP_FILE, KeyMap, map_key, read_map
from tde.postgres.cluster.keys_of_pages import NEWER_MAP_REMEDY, key_of_pages
from tde.postgres.facts import CHECKSUM_BYTES, FIRST_NORMAL_OID

if TYPE_CHECKING:
    from tde.keystore import Keystore


_FILES_OF_A_KIND = 16
_FEWEST_DAMAGED = 4  # VACUUM FULL may have left few files of initdb in a directory.
_MOST_NAMED = 3


@dataclass
class _Kind:
    """What was found in one directory."""

    readable: int = 0
    damaged: dict[Path, bytes] = field(default_factory=dict)


def require_readable_catalogs(data_directory: Path, keystore: Keystore) -> None:
    """Check that catalogs can be read with the keystore's keys.

    Only for a cluster that was shut down: a crash may leave any file torn, and WAL restores it.
    One readable page of a directory is enough: a single damaged page is left to the
    server, which knows more about it. A wrong key, or a tool without keys that has written to
    the files, spoils them all.

    Raises:
        DamagedPagesError: no catalog of some directory begins with a valid page.
        KeyMapError: the key map is missing or cannot be used.
        KeystoreError: a key is missing or cannot be used.
    """
    keymap = read_map(data_directory, keystore.uuid, map_key(keystore))
    with _Ciphers(keystore, keymap) as ciphers:
        for directory in _catalog_directories(data_directory):
            found = _look_at(directory, ciphers)
            if len(found.damaged) >= _FEWEST_DAMAGED and not found.readable:
                raise _unreadable(data_directory, found, keystore)


def _unreadable(data_directory: Path, found: _Kind, keystore: Keystore) -> DamagedPagesError:
    names = ", ".join(str(path) for path in list(found.damaged)[:_MOST_NAMED])
    message = (
        f"the catalogs of {data_directory} cannot be read with the keys of {keystore.path}: none "
        f"of {len(found.damaged)} files begins with a valid page ({names}, …). The server was not "
        "started, and nothing was changed"
    )
    if all(was_changed_by_stock_checksums(page, 0) for page in found.damaged.values()):
        return DamagedPagesError(
            f"{message}. PostgreSQL's own pg_checksums has written to these files without the keys",
            remedy=f"Undo that: tde pg repair-checksums -D {data_directory}. Do not use "
            "pg_resetwal.",
        )
    pages = [(FileIdentity.from_path(path), page) for path, page in found.damaged.items()]
    if key := key_of_pages(keystore, pages):
        return DamagedPagesError(
            f"{message}. They fit keys/{key} of the keystore, which {KEYMAP_FILE} does not name",
            remedy=NEWER_MAP_REMEDY,
        )
    return DamagedPagesError(
        message,
        remedy="The files were altered by something without the keys, or come from another "
        "cluster: restore them from a backup. Do not use pg_resetwal.",
    )


def _catalog_directories(data_directory: Path) -> Iterator[Path]:
    yield data_directory / "global"
    # The server opens nothing else there, such as what a person has moved out of the way.
    found = (path for path in data_directory.glob("base/[1-9]*") if path.name.isdecimal())
    yield from sorted(path for path in found if path.is_dir())


def _look_at(directory: Path, ciphers: _Ciphers) -> _Kind:
    found = _Kind()
    numbers = sorted(
        int(entry.name)
        for entry in directory.iterdir()
        if entry.name.isdecimal() and int(entry.name) < FIRST_NORMAL_OID
    )
    for number in numbers:
        if found.readable or len(found.damaged) == _FILES_OF_A_KIND:
            break
        path = directory / str(number)
        page = _first_page(path)
        if page is None:
            continue
        if _is_page(page, FileIdentity.from_path(path), ciphers):
            found.readable += 1
        else:
            found.damaged[path] = page
    return found


def _first_page(path: Path) -> bytes | None:
    """Return the first page, or ``None`` of a file that is empty or begins with zeros.

    So it is of one that cannot be read here: the server will say what it thinks of it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        page = os.pread(descriptor, PAGE_SIZE, 0)
    finally:
        os.close(descriptor)
    return page if len(page) == PAGE_SIZE and any(page) else None


def _is_page(page: bytes, file: FileIdentity, ciphers: _Ciphers) -> bool:
    assert file.tablespace is not None  # Only relation files are looked at.
    cipher = ciphers.of_tablespace(file.tablespace)
    if cipher is None:
        return True  # In plaintext: no key and no tool without keys can spoil it.
    verdicts = cipher.audit_pages(page, file.identity.to_core(), file.first_block, False)
    return verdicts[0] == _core.AUDIT_VERIFIED


def was_changed_by_stock_checksums(page: bytes, block: int) -> bool:
    """Tell whether PostgreSQL's own pg_checksums has worked on a page as it is stored.

    It writes the checksum of the ciphertext into bytes 8 and 9; by chance they have that value
    once in 65,535 pages.
    """
    stored = int.from_bytes(page[CHECKSUM_BYTES], sys.byteorder)
    return stored == _core.page_checksum(page, block)


class _Ciphers(Closing):
    """Ciphers by tablespace, made on first use and wiped at the end."""

    def __init__(self, keystore: Keystore, keymap: KeyMap) -> None:
        self._keystore = keystore
        self._keymap = keymap
        self._made: dict[int, _core.Cipher | None] = {}

    def close(self) -> None:
        for cipher in self._made.values():
            if cipher is not None:
                cipher.close()

    def of_tablespace(self, oid: int) -> _core.Cipher | None:
        """Return the cipher of a tablespace, ``None`` of one that is in plaintext."""
        from tde.keystore.crypto.secret import wipe

        if oid not in self._made:
            found = self._keymap.key_of(self._keystore, oid)
            self._made[oid] = None
            if found is not None:
                algorithm, key = found
                try:
                    self._made[oid] = make_cipher(algorithm.value, key)
                finally:
                    wipe(key)
        return self._made[oid]
