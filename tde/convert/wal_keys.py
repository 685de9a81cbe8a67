"""Which key each WAL segment was written with, after the key of WAL was rotated.

A segment's first page tells it as long as that page is encrypted. A conversion that is interrupted
may have decrypted it by then, so what was found before the first write stands in the state.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from uuid import UUID

from tde.convert.blocks import BlockCipher, CipherName
from tde.convert.checks import read_first_page
from tde.convert.plan import PlannedFile
from tde.page.codec import PageCipher
from tde.page.identity import WalIdentity
from tde.postgres.cluster.wal_segments import begins_segment


def later_wal_keys(
    data_directory: Path, files: Iterable[PlannedFile], ciphers: Mapping[CipherName, BlockCipher]
) -> dict[str, UUID]:
    """Return the ids of the keys of those segments that do not have the first key, by their path.

    Raises:
        ConversionError: a segment cannot be opened.
    """
    later = {
        name: cipher
        for name, cipher in ciphers.items()
        if isinstance(name, UUID) and isinstance(cipher, PageCipher)
    }
    found = {}
    for file in files if later else ():
        identity = file.identity.identity
        if not isinstance(identity, WalIdentity):
            continue
        page = read_first_page(data_directory / file.path)
        if page is None:
            continue
        for key_id, cipher in later.items():
            if begins_segment(cipher.decrypt_pages(page, identity=identity), identity):
                found[file.path] = key_id
    return found
