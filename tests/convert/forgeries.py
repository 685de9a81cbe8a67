"""What somebody without keys, who may write to the volume, makes of an unfinished conversion."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import zlib
from pathlib import Path
from typing import Any

NOBODY = "0" * 32


def plant_state(data_directory: Path, **changes: Any) -> Path:
    """Write a state.json whose checksum is right; what is there already is changed.

    Fields of earlier releases are written too, so that these would believe it.
    """
    path = data_directory / "tde_convert/state.json"
    document: dict[str, Any] = {"format": "tde-convert", "version": 2, "code": "0" * 64}
    body: dict[str, Any] = {
        "direction": "encrypt",
        "phase": "finishing",
        "keystore_uuid": NOBODY,
        "keystore": "/nowhere",
        "scope": "cluster",
        "algorithm": "AES256",
        "tablespaces": [],
        "files": [],
        "turn_on_checksums": False,
        "plain_files": [],
        "worthless": [],
        "system_identifier": 0,
        "control": [],
        "conversion": NOBODY,
        "key_checks": {},
    }
    status = data_directory.stat()
    if path.exists():
        document = json.loads(path.read_text())
        body |= document["conversion"]
    else:
        path.parent.mkdir(mode=0o700)
        _give(path.parent, status.st_uid, status.st_gid)
    body |= changes
    checksum = zlib.crc32(json.dumps(body, sort_keys=True).encode())
    path.write_text(json.dumps({**document, "checksum": checksum, "conversion": body}))
    _give(path, status.st_uid, status.st_gid)
    return path


def claim_done(data_directory: Path, files: int) -> None:
    """Note for every file that it is converted, as well as that can be done without the key."""
    journal = data_directory / "tde_convert"
    status = data_directory.stat()
    numbers = [number.to_bytes(4, "big") for number in range(files)]
    by_crc = b"".join(struct.pack(">4sI", number, zlib.crc32(number)) for number in numbers)
    guessed = b"".join(number + hashlib.sha256(number).digest()[:16] for number in numbers)
    for name, notes in (("done-8", by_crc), ("done-9", guessed)):
        (journal / name).write_bytes(notes)
        _give(journal / name, status.st_uid, status.st_gid)


def _give(path: Path, uid: int, gid: int) -> None:
    if os.geteuid() == 0:
        os.chown(path, uid, gid)
