"""Writes compressed segments as pg_receivewal does."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tde import WalIdentity
from tde.keystore import KeyOwner, Keystore
from tde.page.reference import PAGE_SIZE, encrypt_pages

SEGMENT_NAME = "00000001000000020000000A"
SUFFIXES = {"gzip": ".gz", "lz4": ".lz4"}
AES_BLOCK = 16


def build_receiver(directory: Path, program: str, source: str) -> Path:
    """Compile a source of this folder under the name of the program that it plays."""
    target = directory / program
    # Only the libraries are needed, not their headers.
    libraries = ["-l:libz.so.1", "-l:liblz4.so.1"]
    command = ["cc", "-Wall", Path(__file__).parent / source, "-o", target, *libraries]
    subprocess.run(command, check=True)
    return target


def stored_form(keystore: Keystore, plain: bytes) -> bytes:
    """Return what the segment's file holds, by the reference implementation."""
    identity = WalIdentity(1, 2, 10)
    length = -(-len(plain) // AES_BLOCK) * AES_BLOCK
    pages = plain.ljust(-(-len(plain) // PAGE_SIZE) * PAGE_SIZE, b"\0")
    key = bytes(keystore.unwrap_key(KeyOwner.wal()))
    return encrypt_pages(key, pages, identity)[:length]
