"""Write the golden files: ``python tests/golden/make.py``.

They freeze format version 1 and are never made again for it.  The slow reference makes
them and the C core has to reproduce them, so neither can drift alone.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

from tde.algorithms import Algorithm
from tde.page import reference
from tde.page.identity import Fork, PageIdentity, RelationIdentity, WalIdentity

HERE = Path(__file__).parent
PAGE = 8192

#: Published on purpose: these keys protect nothing.
KEYS = {
    Algorithm.AES128: bytes(range(0x00, 0x20)),
    Algorithm.AES256: bytes(range(0x40, 0x80)),
}

#: Name of the case, identity, block number of the first page.  The relation's pages lie on
#: both sides of the border between its first two segment files.
CASES: list[tuple[str, PageIdentity, int]] = [
    ("relation", RelationIdentity(5, 16384), 131071),
    ("visibility-map", RelationIdentity(5, 16384, Fork.VM), 0),
    ("shared-relation", RelationIdentity(0, 1260), 0),
    ("temporary-relation", RelationIdentity(5, 16384, temporary=True), 131071),
    ("wal", WalIdentity(1, 10, 255), 2046),
]


def plaintext(name: str) -> bytes:
    """Return a page of noise, a page of zeros and a page with one byte that is not zero."""
    noise = hashlib.shake_128(f"tde golden file: {name}".encode()).digest(PAGE)
    return noise + bytes(PAGE) + bytes(PAGE - 1) + b"\1"


def main() -> None:
    """Write every file and ``manifest.json`` beside this program."""
    manifest = []
    for algorithm, key in KEYS.items():
        for name, identity, first_block in CASES:
            pages = reference.encrypt_pages(key, plaintext(name), identity, first_block)
            file = HERE / f"v1-{name}-{algorithm.name.lower()}.bin"
            file.write_bytes(pages)
            manifest.append(
                {
                    "file": file.name,
                    "case": name,
                    "algorithm": algorithm.name,
                    "key": key.hex(),
                    "identity": {"kind": type(identity).__name__, **dataclasses.asdict(identity)},
                    "first_block": first_block,
                    "tweaks": [reference.tweak(identity, first_block + n).hex() for n in range(3)],
                    "plaintext_sha256": hashlib.sha256(plaintext(name)).hexdigest(),
                    "sha256": hashlib.sha256(pages).hexdigest(),
                }
            )
    (HERE / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="ascii")


if __name__ == "__main__":
    main()
