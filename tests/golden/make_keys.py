"""Write the golden files of key records and the key map: ``python tests/golden/make_keys.py``.

They freeze these formats and are never made again for them. What is wrapped and how is written out
here with the `cryptography` package alone; the code of tde only has to read it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Sequence
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


#: An entry of each kind that tablespaces begin with, of which the last replaces the first.
OF_TABLESPACES = (
    (16384, 1, bytes(16)),
    (16385, 2, bytes(16)),
    (16386, 3, KEY_ID),
    (16384, 3, KEY_ID[::-1]),
)
#: What a rekey adds.
REKEYED = ((1663, 4, KEY_ID), (16386, 4, KEY_ID[::-1]))
#: WAL got another key, and again; and WAL with a third one came from another server.
FOREIGN_ID = bytes(range(0xE0, 0xF0))
OF_WAL = ((16384, 1, bytes(16)), (0, 5, KEY_ID), (0, 5, KEY_ID[::-1]), (0, 6, FOREIGN_ID))


def record(version: int, owner: int, oid: int, key_id: bytes = b"") -> bytes:
    """Return a record of an AES-256 key."""
    header = b"TDEKEY\0" + bytes([version, owner, 2, 0, 0]) + oid.to_bytes(4, "big")
    header += KEYSTORE + MASTER_KEY_ID + NONCE + bytes(4) + key_id
    return header + AESGCM(MASTER_KEY).encrypt(NONCE, KEY, header)


def key_map(entries: Sequence[tuple[int, int, bytes]]) -> bytes:
    """Return a map with entries of OID, kind and key id."""
    bodies = [b"TDEMAP\0\1" + bytes(8) + KEYSTORE]
    for oid, kind, key_id in entries:
        bodies.append(oid.to_bytes(4, "big") + bytes([kind]) + bytes(11) + key_id)
    content, code = b"", b""
    for body in bodies:
        code = hmac.digest(MAP_KEY, code + body, hashlib.sha256)
        content += body + code
    return content


def derive(key: bytes, label: bytes) -> bytes:
    """Return HKDF-SHA256 without salt, 32 bytes, by its definition (RFC 5869)."""
    pseudo_random_key = hmac.digest(bytes(32), key, hashlib.sha256)
    return hmac.digest(pseudo_random_key, label + b"\0\1", hashlib.sha256)


def entry(
    number: int, previous: bytes, event: str, details: str, key: bytes, key_id: bytes
) -> bytes:
    """Return a line of a key log."""
    line = (
        f'{{"number":{number},"time":"2026-11-29T04:00:00+00:00","event":"{event}","who":'
        '{"user":"postgres","login":"alice","host":"db1","process":4711,"command":"tde keystore"},'
        f'"details":{details},"previous":"{previous.hex()}","master_key":"{key_id.hex()}"'
    ).encode()
    code = hmac.digest(derive(derive(key, b"tde key log"), b"code"), line, hashlib.sha256)
    return line + b',"code":"' + code.hex().encode() + b'"}\n'


def key_log() -> bytes:
    """Return a log with a rotation from an older master key to the one of the other files."""
    old_key, old_id = MASTER_KEY[::-1], MASTER_KEY_ID[::-1]
    seal = derive(derive(MASTER_KEY, b"tde key log"), b"seal")
    context = b"TDELOG\0\1" + KEYSTORE + old_id + MASTER_KEY_ID
    sealed = NONCE + AESGCM(seal).encrypt(NONCE, derive(old_key, b"tde key log"), context)
    rotation = (
        f'{{"keystore":"{KEYSTORE.hex()}","old":"{old_id.hex()}","new":"{MASTER_KEY_ID.hex()}",'
        f'"sealed":"{sealed.hex()}"}}'
    )
    first = entry(1, bytes(32), "create keystore", "{}", old_key, old_id)
    second = entry(2, sha256(first), "rotate master key", rotation, old_key, old_id)
    third = entry(3, sha256(second), "open keystore", "{}", MASTER_KEY, MASTER_KEY_ID)
    return first + second + third


def sha256(line: bytes) -> bytes:
    """Return the digest of a line."""
    return hashlib.sha256(line).digest()


#: Envelopes: what a provider unwraps, and what it is asked with.
KEK = bytes(range(0xA0, 0xC0))
WRAPPED_KEK = b"vault:v1:" + bytes(range(0x40))


def envelope() -> bytes:
    """Return an envelope, as `unlock/officers-2.<master key id>.json`."""
    fields = {
        "format": "tde-unlock",
        "version": 1,
        "name": "officers-2",
        "keystore": KEYSTORE.hex(),
        "master_key_id": MASTER_KEY_ID.hex(),
        "type": "vault",
        "unattended": True,
        "level": "wal",
        "cache_seconds": 43200,
        "parameters": {"address": "https://vault:8200", "key": "tde \u00e9"},
        "wrapped_kek": WRAPPED_KEK.hex(),
    }
    fields["nonce"] = NONCE.hex()
    context = canonical({name: fields[name] for name in fields if name != "nonce"})
    fields["wrapped_master_key"] = AESGCM(KEK).encrypt(NONCE, MASTER_KEY, context).hex()
    code = hmac.digest(derive(MASTER_KEY, b"tde unlock"), canonical(fields), hashlib.sha256)
    fields["code"] = code.hex()
    fields["checksum"] = sha256(canonical(fields)).hex()
    return json.dumps(fields, indent=2).encode() + b"\n"


def canonical(fields: dict[str, object]) -> bytes:
    """Return a JSON object with its names in order and without white space, in ASCII."""
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


FILES = {
    "v1-unlock.json": envelope(),
    "v1-key.log": key_log(),
    "v1-tablespace.key": record(1, 2, 1663),
    "v2-named.key": record(2, 4, 0, KEY_ID),
    "v2-later-wal.key": record(2, 5, 2, KEY_ID),
    "v1-tde.keymap": key_map(OF_TABLESPACES),
    "v1-rekeyed-tde.keymap": key_map(OF_TABLESPACES + REKEYED),
    "v1-rotated-wal.keymap": key_map(OF_WAL),
}


def main() -> None:
    """Write every file beside this program."""
    for name, content in FILES.items():
        (HERE / name).write_bytes(content)


if __name__ == "__main__":
    main()
