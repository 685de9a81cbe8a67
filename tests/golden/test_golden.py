"""The C core reads and writes format version 1 exactly as it is on users' disks."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from tde import Fork, PageCipher, RelationIdentity, WalIdentity
from tde.page import reference

HERE = Path(__file__).parent
MANIFEST: list[dict[str, Any]] = json.loads((HERE / "manifest.json").read_text())
PAGE = 8192

# Written out once more here: what the files mean must not depend on the program that made them.
IDENTITIES: dict[str, RelationIdentity | WalIdentity] = {
    "relation": RelationIdentity(5, 16384),
    "visibility-map": RelationIdentity(5, 16384, Fork.VM),
    "shared-relation": RelationIdentity(0, 1260),
    "temporary-relation": RelationIdentity(5, 16384, temporary=True),
    "wal": WalIdentity(1, 10, 255),
}

golden = pytest.mark.parametrize("entry", MANIFEST, ids=[entry["file"] for entry in MANIFEST])


def plaintext(case: str) -> bytes:
    noise = hashlib.shake_128(f"tde golden file: {case}".encode()).digest(PAGE)
    return noise + bytes(PAGE) + bytes(PAGE - 1) + b"\1"


def test_every_file_is_listed() -> None:
    assert sorted(path.name for path in HERE.glob("*.bin")) == sorted(
        entry["file"] for entry in MANIFEST
    )
    assert {(entry["case"], entry["algorithm"]) for entry in MANIFEST} == {
        (case, algorithm) for case in IDENTITIES for algorithm in ("AES128", "AES256")
    }


@golden
def test_the_files_are_as_released(entry: dict[str, Any]) -> None:
    stored = (HERE / entry["file"]).read_bytes()
    assert hashlib.sha256(stored).hexdigest() == entry["sha256"]
    assert hashlib.sha256(plaintext(entry["case"])).hexdigest() == entry["plaintext_sha256"]
    assert stored[PAGE : 2 * PAGE] == bytes(PAGE)


@golden
def test_pages_decrypt_and_encrypt_bit_by_bit(entry: dict[str, Any]) -> None:
    stored, plain = (HERE / entry["file"]).read_bytes(), plaintext(entry["case"])
    where: dict[str, Any] = {
        "identity": IDENTITIES[entry["case"]],
        "first_block": entry["first_block"],
    }
    with PageCipher(bytes.fromhex(entry["key"]), entry["algorithm"]) as cipher:
        assert cipher.decrypt_pages(stored, **where) == plain
        assert cipher.encrypt_pages(plain, **where) == stored


@golden
def test_the_tweaks_are_as_released(entry: dict[str, Any]) -> None:
    identity, first = IDENTITIES[entry["case"]], entry["first_block"]
    assert [reference.tweak(identity, first + n).hex() for n in range(3)] == entry["tweaks"]


def test_files_of_different_identity_differ() -> None:
    assert len({entry["sha256"] for entry in MANIFEST}) == len(MANIFEST)
