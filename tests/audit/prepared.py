"""A stopped cluster with archive and backup to plant things in, and how its files are changed."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from tde import Algorithm, FileIdentity, PageCipher, _core
from tde.keystore import KeyOwner, Keystore
from tde.postgres import AuditReport, Cluster, audit
from tde.postgres.cluster.keymap import map_key, read_map
from tests.postgres.canaries import CANARY

PAGE = 8192
TEXT = CANARY.decode()


@dataclass
class Prepared:
    """A stopped cluster with a user tablespace and a WAL archive, and how to audit copies."""

    cluster: Cluster
    keystore: Keystore
    archive: Path
    backup: Path
    heap: str
    other: str
    tablespace: int
    in_tablespace: str

    @property
    def root(self) -> Path:
        return self.cluster.data_directory

    def audit(self, **arguments: object) -> AuditReport:
        return audit(self.cluster, self.keystore, **arguments)  # type: ignore[arg-type]

    def cipher(self, name: str) -> PageCipher:
        oid = FileIdentity.from_path(name).tablespace
        key = (
            (Algorithm.AES256, self.keystore.unwrap_key(KeyOwner.wal()))
            if oid is None
            else read_map(self.root, self.keystore.uuid, map_key(self.keystore)).key_of(
                self.keystore, oid
            )
        )
        assert key is not None
        return PageCipher(key[1], key[0])

    def decrypted(self, path: Path, name: str) -> bytes:
        identity = FileIdentity.from_path(name)
        content = path.read_bytes()
        with self.cipher(name) as cipher:
            return cipher.decrypt_pages(
                content, identity=identity.identity, first_block=identity.first_block
            )


def link_tree(source: Path, target: Path) -> Path:
    """Copy a directory without copying its files, of which a test changes one or two."""
    shutil.copytree(source, target, symlinks=True, copy_function=os.link)
    return target


def store(path: Path, content: bytes) -> None:
    """Write a file of a copy; the original, another link of the same file, stays."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def write_at(path: Path, offset: int, content: bytes) -> None:
    old = path.read_bytes()
    store(path, old[:offset] + content + old[offset + len(content) :])


def checksum_fits(page: bytes, block: int) -> bool:
    return _core.page_checksum(page, block) == int.from_bytes(page[8:10], "little")


def written_blocks(directory: Path) -> int:
    """Count the blocks of relations or WAL below a directory that are not all zeros."""
    blocks = 0
    for path in directory.rglob("*"):
        if path.is_file() and path.stat().st_size % PAGE == 0:
            content = path.read_bytes()
            pages = (content[at : at + PAGE] for at in range(0, len(content), PAGE))
            blocks += sum(any(page) for page in pages)
    return blocks


def only_finding(report: AuditReport):
    assert len(report.findings) == 1, [finding.problem for finding in report.findings]
    assert not report.clean
    return report.findings[0]
