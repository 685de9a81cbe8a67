"""Keys that are derived: of tablespaces that are made in SQL, and to authenticate.

One key for several tablespaces would repeat tweaks, because relfilenumbers are unique only
within a tablespace. HKDF (RFC 5869) gives each an independent key, and whoever has the one
record has all of them: a standby needs nothing new when a tablespace is created.
"""

from __future__ import annotations

from typing import cast

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tde.algorithms import Algorithm

_LABEL = b"tde tablespace\x00"
_AUTHENTICATION_BYTES = 32


def derive_tablespace_key(base: bytearray, oid: int, algorithm: Algorithm) -> bytearray:
    """Return the XTS key of tablespace ``oid``; the caller wipes it.

    Args:
        base: the key of the record for other tablespaces, as long as ``algorithm`` wants it.
        oid: of the tablespace, 1 to 2**32 - 1.
        algorithm: that of the record.
    """
    info = _LABEL + oid.to_bytes(4, "big")
    return bytearray(_derive(base, info, algorithm.key_bytes))


def derive_authentication_key(base: bytearray, label: bytes) -> bytes:
    """Return a key for HMAC-SHA256 over what ``label`` names."""
    info = label + b"\x00"
    return _derive(base, info, _AUTHENTICATION_BYTES)


def _derive(base: bytearray, info: bytes, size: int) -> bytes:
    # Any buffer will do, whatever the annotation says; bytes(base) would be a copy that cannot be
    # wiped, and that children and core dumps would have.
    return HKDF(SHA256(), size, salt=None, info=info).derive(cast(bytes, base))
