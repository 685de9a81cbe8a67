"""Seals of documents that leave the machine, such as reports, and the proof of them later.

A seal is HMAC-SHA256 under a key that is derived from the log secret of the master key. A rotation
keeps that secret for the next master key, so a seal is proven as long as the key log is whole.

Who has an old master key can make seals with it for ever, and that may be why it was rotated. What
tells his documents from those of before the rotation is the key log: an entry holds the SHA-256 of
each document, is written before the document, and nobody with an old master key can add one.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from tde.keystore.log.entry import LogEntry, document_key
from tde.keystore.log.reading import KeyLog, log_secret_of, read_key_log

_DIGESTS = "sha256"


@dataclass(frozen=True)
class SealedDocument:
    """A document, and what its seal says.

    Attributes:
        content: what the seal is over; it names the kind of document, so that none is another.
        master_key_id: whose seal it has.
        code: the seal, 32 bytes.
        file: all of the document as it is stored, of which the key log has the digest.
    """

    content: bytes
    master_key_id: UUID
    code: bytes
    file: bytes


@dataclass(frozen=True)
class SealProof:
    """What became of the check of a seal.

    Attributes:
        problem: why the document is not proven; empty when it is.
        entry: the entry of the key log that tells of it; ``None`` when there is none.
        is_current: whether the master key is still the one that has sealed it.
    """

    problem: str
    entry: LogEntry | None = None
    is_current: bool = True


def document_code(secret: bytes, content: bytes) -> bytes:
    """Return the seal of a document.

    Args:
        secret: log secret of the master key.
    """
    return hmac.new(document_key(secret), content, hashlib.sha256).digest()


def digests_of(files: Mapping[str, bytes]) -> dict[str, dict[str, str]]:
    """Return what the entry of the key log says of documents, by a name for each."""
    return {_DIGESTS: {name: hashlib.sha256(file).hexdigest() for name, file in files.items()}}


def check_seal(directory: Path, author: tuple[UUID, bytes], document: SealedDocument) -> SealProof:
    """Tell whether a document is as it was sealed.

    Args:
        directory: the keystore's.
        author: id and log secret of the master key of today.

    Raises:
        KeystoreError: the key log cannot be read.
    """
    log = read_key_log(directory, author)
    secret = log_secret_of(log.entries, author, document.master_key_id.hex)
    if secret is None:
        return SealProof(
            f"it names the master key {document.master_key_id.hex}, and neither is that the one of "
            f"this keystore nor do the rotations in {log.path} lead to it"
        )
    if not hmac.compare_digest(document_code(secret, document.content), document.code):
        return SealProof("it was altered after it was sealed, or another keystore has sealed it")
    is_current = document.master_key_id == author[0]
    entry = _entry_of(log, document.file)
    if entry is None and not is_current:
        return SealProof(
            f"its seal is that of an earlier master key, and no proven entry of {log.path} tells "
            "of it: who has that master key could have made it since",
            is_current=False,
        )
    return SealProof("", entry, is_current)


def _entry_of(log: KeyLog, file: bytes) -> LogEntry | None:
    """Return the entry that has the digest of a document, if the log is good up to there."""
    if log.problems:
        return None
    digest = hashlib.sha256(file).hexdigest()
    proven = log.entries[: log.confirmed]
    found: list[LogEntry] = [
        entry
        for entry in proven
        if entry.master_key_id is not None and digest in _digests_in(entry)
    ]
    return found[-1] if found else None


def _digests_in(entry: LogEntry) -> list[str]:
    digests = entry.details.get(_DIGESTS)
    return [str(digest) for digest in digests.values()] if isinstance(digests, Mapping) else []
