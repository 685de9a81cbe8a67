"""Write the golden files of key records and the key map: ``python tests/golden/make_keys.py``.

They freeze these formats and are never made again for them. What is wrapped and how is written out
here with the `cryptography` package alone; the code of tde only has to read it.
"""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

HERE = Path(__file__).parent

#: Published on purpose: these keys protect nothing.
KEYSTORE = bytes(range(0x10, 0x20))
MASTER_KEY_ID = bytes(range(0x20, 0x30))
MASTER_KEY = bytes(range(0x30, 0x50))
KEY_ID = bytes(range(0x50, 0x60))
NONCE = bytes(range(0x60, 0x6C))
KEY = bytes(range(0x80, 0xC0))
MAP_KEY = bytes(range(0xC0, 0xE0))


def record(version: int, owner: int, oid: int, key_id: bytes = b"") -> bytes:
    """Return a record of an AES-256 key."""
    header = b"TDEKEY\0" + bytes([version, owner, 2, 0, 0]) + oid.to_bytes(4, "big")
    header += KEYSTORE + MASTER_KEY_ID + NONCE + bytes(4) + key_id
    return header + AESGCM(MASTER_KEY).encrypt(NONCE, KEY, header)


def key_map() -> bytes:
    """Return a map with an entry of each kind, of which the last replaces the first."""
    bodies = [b"TDEMAP\0\1" + bytes(8) + KEYSTORE]
    for oid, kind, key_id in (
        (16384, 1, bytes(16)),
        (16385, 2, bytes(16)),
        (16386, 3, KEY_ID),
        (16384, 3, KEY_ID[::-1]),
    ):
        bodies.append(oid.to_bytes(4, "big") + bytes([kind]) + bytes(11) + key_id)
    content, code = b"", b""
    for body in bodies:
        code = hmac.digest(MAP_KEY, code + body, hashlib.sha256)
        content += body + code
    return content


FILES = {
    "v1-tablespace.key": record(1, 2, 1663),
    "v2-named.key": record(2, 4, 0, KEY_ID),
    "v1-tde.keymap": key_map(),
}


def main() -> None:
    """Write every file beside this program."""
    for name, content in FILES.items():
        (HERE / name).write_bytes(content)


if __name__ == "__main__":
    main()
