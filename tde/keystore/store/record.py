"""The key record: 144 bytes that hold one wrapped key (docs/format.md).

Pure functions over bytes, without files or keys. The interposer reads the same records in
C (c_ext/format/keyrecord.c); the layout is frozen by its format version.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import Enum
from uuid import UUID

from tde.algorithms import Algorithm
from tde.errors import KeystoreDamagedError, KeystoreVersionError
from tde.keystore.crypto.wrapping import Wrapped

RECORD_BYTES = 144
HEADER_BYTES = 64
# Every record wraps this many bytes, whatever the key's length, so that its size tells nothing.
PAYLOAD_BYTES = 64
MAGIC = b"TDEKEY\x00"
FORMAT_VERSION = 1
PLAINTEXT_CODE = 0

# magic, version, owner kind, algorithm, two zeros, owner OID, keystore UUID, master key id,
# nonce, four zeros.
_HEADER = struct.Struct(">7sBBB2sI16s16s12s4s")


class OwnerKind(Enum):
    """What a key protects; the value is the code in the record."""

    WAL = 1
    TABLESPACE = 2
    OTHER_TABLESPACES = 3


@dataclass(frozen=True)
class KeyOwner:
    """The WAL, one tablespace by its OID, or all tablespaces without a record of their own."""

    kind: OwnerKind
    oid: int

    def __post_init__(self) -> None:
        of_one = self.kind is OwnerKind.TABLESPACE
        allowed = range(1, 1 << 32) if of_one else range(1)
        if self.oid not in allowed:
            raise ValueError(f"{self.oid} is not the OID of a {self.kind.name} key's owner")

    @classmethod
    def wal(cls) -> KeyOwner:
        """Return the owner of the WAL key."""
        return cls(OwnerKind.WAL, 0)

    @classmethod
    def tablespace(cls, oid: int) -> KeyOwner:
        """Return the owner of the key of tablespace ``oid``.

        Raises:
            ValueError: ``oid`` is not between 1 and 2**32 - 1.
        """
        return cls(OwnerKind.TABLESPACE, oid)

    @classmethod
    def other_tablespaces(cls) -> KeyOwner:
        """Return the owner of the key from which those of all other tablespaces are derived."""
        return cls(OwnerKind.OTHER_TABLESPACES, 0)

    @property
    def file_name(self) -> str:
        """The record's name inside the keystore's directory ``keys``."""
        return {OwnerKind.WAL: "wal.key", OwnerKind.OTHER_TABLESPACES: "other.key"}.get(
            self.kind, f"{self.oid}.key"
        )

    def __str__(self) -> str:
        return {OwnerKind.WAL: "the WAL", OwnerKind.OTHER_TABLESPACES: "other tablespaces"}.get(
            self.kind, f"tablespace {self.oid}"
        )


@dataclass(frozen=True)
class RecordHeader:
    """The part of a record that is stored in the clear and authenticated.

    Attributes:
        algorithm: what the wrapped key is for; None marks a plaintext entry, which says that
            the tablespace is deliberately not encrypted.
    """

    owner: KeyOwner
    algorithm: Algorithm | None
    keystore: UUID
    master_key_id: UUID
    nonce: bytes

    def pack(self) -> bytes:
        """Return the 64 bytes of the header, which are also the wrapping's context."""
        return _HEADER.pack(
            MAGIC,
            FORMAT_VERSION,
            self.owner.kind.value,
            PLAINTEXT_CODE if self.algorithm is None else self.algorithm.value,
            b"",
            self.owner.oid,
            self.keystore.bytes,
            self.master_key_id.bytes,
            self.nonce,
            b"",
        )


@dataclass(frozen=True)
class KeyRecord:
    """A whole record: the header, the wrapped key and the tag over both."""

    header: RecordHeader
    ciphertext: bytes
    tag: bytes

    @property
    def wrapped(self) -> Wrapped:
        """The wrapped key in the form that :func:`tde.keystore.crypto.wrapping.unwrap` takes."""
        return Wrapped(self.header.nonce, self.ciphertext, self.tag)

    def pack(self) -> bytes:
        """Return the 144 bytes of the record."""
        return self.header.pack() + self.ciphertext + self.tag


def parse_record(data: bytes, source: str) -> KeyRecord:
    """Return the record in ``data``; ``source`` names it in error messages.

    Only the form is checked here. Whether the content is authentic shows when it is unwrapped.

    Raises:
        KeystoreDamagedError: the length or a field is not what tde writes.
        KeystoreVersionError: the record has another format version.
    """
    if len(data) != RECORD_BYTES:
        raise _damaged(source, f"it has {len(data)} bytes instead of {RECORD_BYTES}")
    fields = _HEADER.unpack_from(data)
    magic, version, kind, algorithm, zeros, oid, keystore, master_key_id, nonce, more_zeros = fields
    if magic != MAGIC:
        raise _damaged(source, "it does not start like a key record")
    if version != FORMAT_VERSION:
        raise KeystoreVersionError(
            f"{source} has key record format {version}; this release knows {FORMAT_VERSION}",
            remedy="Use the release of tde that wrote it.",
        )
    if any(zeros) or any(more_zeros):
        raise _damaged(source, "its reserved bytes are not zero")
    try:
        owner = KeyOwner(OwnerKind(kind), oid)
        of_key = None if algorithm == PLAINTEXT_CODE else Algorithm(algorithm)
    except ValueError as error:
        raise _damaged(source, str(error)) from error
    if of_key is None and owner.kind is not OwnerKind.TABLESPACE:
        raise _damaged(source, f"{owner} cannot have a plaintext entry")
    header = RecordHeader(owner, of_key, UUID(bytes=keystore), UUID(bytes=master_key_id), nonce)
    return KeyRecord(
        header,
        data[HEADER_BYTES : HEADER_BYTES + PAYLOAD_BYTES],
        data[HEADER_BYTES + PAYLOAD_BYTES :],
    )


def _damaged(source: str, why: str) -> KeystoreDamagedError:
    return KeystoreDamagedError(
        f"{source} is damaged: {why}",
        remedy="Restore this file from a backup of the keystore.",
    )
