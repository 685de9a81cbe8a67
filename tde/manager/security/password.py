"""The password of a manager that other machines reach: Argon2id, as for keystores."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from pathlib import Path

from tde.errors import TdeError
from tde.keystore.crypto.kdf import SALT_BYTES, KdfParameters, derive_kek
from tde.postgres.server.owned_files import write_owned_file

_FILE = "password.json"
_LONGEST = 200


def set_password(directory: Path, password: bytearray) -> None:
    """Write down how a password is known again; who reads that has to guess it."""
    salt = secrets.token_bytes(SALT_BYTES)
    cost = KdfParameters()
    document = {
        "salt": salt.hex(),
        "kdf": {
            "memory_kib": cost.memory_kib,
            "iterations": cost.iterations,
            "lanes": cost.lanes,
        },
        "hash": _hash(password, salt, cost).hex(),
    }
    write_owned_file(directory / _FILE, json.dumps(document), None)


def has_password(directory: Path) -> bool:
    """Whether one was set."""
    return (directory / _FILE).exists()


def is_password(directory: Path, password: bytearray) -> bool:
    """Tell whether it is the password; it takes as long for every wrong one.

    Raises:
        TdeError: none was set, or its file is damaged.
    """
    try:
        found = json.loads((directory / _FILE).read_text(encoding="utf-8"))
        salt, cost = bytes.fromhex(found["salt"]), KdfParameters(**found["kdf"])
        expected = bytes.fromhex(found["hash"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise TdeError(
            f"the password cannot be checked: {error}", remedy="tde manager --set-password"
        ) from error
    given = _hash(password[:_LONGEST], salt, cost)
    return hmac.compare_digest(given, expected)


def _hash(password: bytearray, salt: bytes, cost: KdfParameters) -> bytes:
    with derive_kek(password, salt, cost) as key, key.view as view:
        return hashlib.sha256(view).digest()
