"""The key record: 144 or 160 bytes that hold one wrapped key (docs/format.md).

Version 1 names the owner of its key. Version 2 has a name of its own, a key id, which the map of
a cluster refers to: such a key is written before anybody knows the OID of its tablespace, or is not
the first of the WAL.

Pure functions over bytes, without files or keys. The interposer reads the same records in
C (c_ext/format/keyrecord.c); the layout is frozen by its format version.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from uuid import UUID

from tde.algorithms import Algorithm
from tde.errors import KeystoreDamagedError, KeystoreVersionError
from tde.keystore.crypto.wrapping import Wrapped
from tde.keystore.store.remedies import replace_key

RECORD_BYTES = 144
NAMED_RECORD_BYTES = 160
_KEY_ID_BYTES = 16
# Every record wraps this many bytes, whatever the key's length, so that its size tells nothing.
PAYLOAD_BYTES = 64
MAGIC = b"TDEKEY\x00"
FORMAT_VERSION = 1
NAMED_FORMAT_VERSION = 2
PLAINTEXT_CODE = 0

# magic, version, owner kind, algorithm, two zeros, owner OID, keystore UUID, master key id,
# nonce, four zeros.
_HEADER = struct.Struct(">7sBBB2sI16s16s12s4s")


class OwnerKind(Enum):
    """What a key protects; the value is the code in the record."""

    WAL = 1
    TABLESPACE = 2
    OTHER_TABLESPACES = 3
    NAMED = 4
    LATER_WAL = 5


@dataclass(frozen=True)
class KeyOwner:
    """The WAL, one tablespace by its OID or by its key's id, or all other tablespaces.

    Attributes:
        oid: of the tablespace, for kind ``TABLESPACE``; for ``LATER_WAL`` the number of the key,
            from 2 on; 0 for the others.
        key_id: the name of the key, for kinds ``NAMED`` and ``LATER_WAL``; else ``None``.
    """

    kind: OwnerKind
    oid: int
    key_id: UUID | None = None

    def __post_init__(self) -> None:
        # Plain comparisons, because a list of ten thousand keys makes twenty thousand of them.
        kind = self.kind
        if kind is OwnerKind.TABLESPACE or kind is OwnerKind.LATER_WAL:
            least, most = (1 if kind is OwnerKind.TABLESPACE else 2), (1 << 32) - 1
        else:
            least = most = 0
        if not least <= self.oid <= most:
            raise ValueError(f"{self.oid} is not the OID of a {kind.name} key's owner")
        has_name = kind is OwnerKind.NAMED or kind is OwnerKind.LATER_WAL
        if (self.key_id is not None) is not has_name:
            raise ValueError(f"only a named key has an id, not a {self.kind.name} key")

    @classmethod
    def wal(cls) -> KeyOwner:
        """Return the owner of the first WAL key, from which others are derived."""
        return cls(OwnerKind.WAL, 0)

    @classmethod
    def later_wal(cls, number: int, key_id: UUID) -> KeyOwner:
        """Return the owner of a WAL key that came later.

        Args:
            number: how many WAL keys the keystore had with this one; copies of a keystore may each
                have one with the same number.

        Raises:
            ValueError: ``number`` is not between 2 and 2**32 - 1.
        """
        return cls(OwnerKind.LATER_WAL, number, key_id)

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

    @classmethod
    def named(cls, key_id: UUID) -> KeyOwner:
        """Return the owner of a key that has a name: whatever tablespace a map gives it to."""
        return cls(OwnerKind.NAMED, 0, key_id)

    @property
    def can_be_plaintext(self) -> bool:
        """Whether its record may say that the owner is deliberately not encrypted."""
        return self.kind in (OwnerKind.TABLESPACE, OwnerKind.NAMED)

    @property
    def record_version(self) -> int:
        """The format version of its record."""
        return FORMAT_VERSION if self.key_id is None else NAMED_FORMAT_VERSION

    @property
    def file_name(self) -> str:
        """The record's name inside the keystore's directory ``keys``."""
        if self.key_id is not None:
            prefix = f"wal.{self.oid}." if self.kind is OwnerKind.LATER_WAL else ""
            return f"{prefix}{self.key_id.hex}.key"
        return {OwnerKind.WAL: "wal.key", OwnerKind.OTHER_TABLESPACES: "other.key"}.get(
            self.kind, f"{self.oid}.key"
        )

    def __str__(self) -> str:
        if self.kind is OwnerKind.LATER_WAL:
            return f"the WAL, key {self.oid}"
        if self.key_id is not None:
            return f"key {self.key_id.hex}"
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
        """Return the header, 64 or 80 bytes, which is also the wrapping's context."""
        key_id = self.owner.key_id
        fields = _HEADER.pack(
            MAGIC,
            self.owner.record_version,
            self.owner.kind.value,
            PLAINTEXT_CODE if self.algorithm is None else self.algorithm.value,
            b"",
            self.owner.oid,
            self.keystore.bytes,
            self.master_key_id.bytes,
            self.nonce,
            b"",
        )
        return fields if key_id is None else fields + key_id.bytes


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
        """Return the 144 or 160 bytes of the record."""
        return self.header.pack() + self.ciphertext + self.tag


def parse_record(data: bytes, source: str) -> KeyRecord:
    """Return the record in ``data``; ``source`` names it in error messages.

    Only the form is checked here. Whether the content is authentic shows when it is unwrapped.

    Raises:
        KeystoreDamagedError: the length or a field is not what tde writes.
        KeystoreVersionError: the record has another format version.
    """
    if len(data) not in (RECORD_BYTES, NAMED_RECORD_BYTES):
        raise _damaged(
            source, f"it has {len(data)} bytes instead of {RECORD_BYTES} or {NAMED_RECORD_BYTES}"
        )
    fields = _HEADER.unpack_from(data)
    magic, version, kind, algorithm, zeros, oid, keystore, master_key_id, nonce, more_zeros = fields
    if magic != MAGIC:
        raise _damaged(source, "it does not start like a key record")
    if version not in (FORMAT_VERSION, NAMED_FORMAT_VERSION):
        raise KeystoreVersionError(
            f"{source} has key record format {version}; this release knows {FORMAT_VERSION} and "
            f"{NAMED_FORMAT_VERSION}",
            remedy="Use the release of tde that wrote it.",
        )
    has_name = version == NAMED_FORMAT_VERSION
    if has_name is not (len(data) == NAMED_RECORD_BYTES):
        raise _damaged(source, f"it has {len(data)} bytes, and format {version}")
    if any(zeros) or any(more_zeros):
        raise _damaged(source, "its reserved bytes are not zero")
    header_bytes = _HEADER.size + (_KEY_ID_BYTES if has_name else 0)
    key_id = UUID(bytes=data[_HEADER.size : header_bytes]) if has_name else None
    try:
        owner = KeyOwner(OwnerKind(kind), oid, key_id)
        of_key = None if algorithm == PLAINTEXT_CODE else Algorithm(algorithm)
    except ValueError as error:
        raise _damaged(source, str(error)) from error
    if of_key is None and not owner.can_be_plaintext:
        raise _damaged(source, f"{owner} cannot have a plaintext entry")
    header = RecordHeader(owner, of_key, _uuid(keystore), _uuid(master_key_id), nonce)
    end = header_bytes + PAYLOAD_BYTES
    return KeyRecord(header, data[header_bytes:end], data[end:])


@lru_cache(maxsize=8)
def _uuid(value: bytes) -> UUID:
    """Make a UUID once: all records of a keystore have the same two."""
    return UUID(bytes=value)


def _damaged(source: str, why: str) -> KeystoreDamagedError:
    return KeystoreDamagedError(f"{source} is damaged: {why}", remedy=replace_key(source))
