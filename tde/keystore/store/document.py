"""keystore.json: what is needed, besides the passphrase, to open a keystore."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from tde.errors import KeystoreDamagedError, KeystoreVersionError
from tde.keystore.crypto.kdf import KDF_NAME, KdfParameters
from tde.keystore.crypto.wrapping import TAG_BYTES, Wrapped
from tde.keystore.store.remedies import restore_document

FORMAT = "tde-keystore"
VERSION = 1


@dataclass(frozen=True)
class KeystoreHeader:
    """The fields that the wrapping of the master key authenticates: all but the wrapped key.

    Attributes:
        created: in UTC, to the second.
    """

    uuid: UUID
    created: datetime
    kdf: KdfParameters
    salt: bytes
    master_key_id: UUID

    def fields(self) -> dict[str, Any]:
        """Return the header as it stands in keystore.json."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "uuid": self.uuid.hex,
            "created": self.created.isoformat(timespec="seconds"),
            "kdf": {
                "name": KDF_NAME,
                "memory_kib": self.kdf.memory_kib,
                "iterations": self.kdf.iterations,
                "lanes": self.kdf.lanes,
                "salt": self.salt.hex(),
            },
            "master_key": {"id": self.master_key_id.hex},
        }

    def context(self) -> bytes:
        """Return the bytes that the wrapped master key is bound to."""
        return canonical(self.fields())


@dataclass(frozen=True)
class KeystoreDocument:
    """The whole of keystore.json."""

    header: KeystoreHeader
    master_key: Wrapped

    def encode(self) -> bytes:
        """Return the content of the file, which is the same for equal documents."""
        fields = self.header.fields()
        fields["master_key"]["nonce"] = self.master_key.nonce.hex()
        fields["master_key"]["wrapped"] = (self.master_key.ciphertext + self.master_key.tag).hex()
        fields["checksum"] = checksum(fields)
        return json.dumps(fields, indent=2).encode() + b"\n"


def parse_document(data: bytes, path: Path) -> KeystoreDocument:
    """Return the document in ``data``; ``path`` names it in error messages.

    The checksum only tells an accident from a wrong passphrase, which would otherwise look
    alike. Against a forger stands the authentication of the header when the key is unwrapped.

    Raises:
        KeystoreDamagedError: the content is not, byte for byte, what tde writes.
        KeystoreVersionError: another format version.
        KdfParametersError: the cost of the key derivation is out of bounds.
    """
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "it is not JSON") from error
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        raise _damaged(path, "it does not describe a tde keystore")
    if fields.get("version") != VERSION:
        raise KeystoreVersionError(
            f"{path} has keystore format {fields.get('version')!r}; this release knows {VERSION}",
            remedy="Use the release of tde that wrote it, or restore it if it was altered.",
        )
    if fields.pop("checksum", None) != checksum(fields):
        raise _damaged(path, "its checksum does not match")
    try:
        document = _from_fields(fields)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(path, "a field is missing or malformed") from error
    # Comparing with our own encoding catches whatever a parser is lenient about: unknown and
    # duplicate keys, upper-case digits, `true` for 1, white space.
    if document.encode() != data:
        raise _damaged(path, "it has fields or a form that tde does not write")
    return document


def _from_fields(fields: dict[str, Any]) -> KeystoreDocument:
    kdf, master_key = fields["kdf"], fields["master_key"]
    wrapped = bytes.fromhex(master_key["wrapped"])
    return KeystoreDocument(
        KeystoreHeader(
            uuid=UUID(hex=fields["uuid"]),
            created=datetime.fromisoformat(fields["created"]),
            kdf=KdfParameters(kdf["memory_kib"], kdf["iterations"], kdf["lanes"]),
            salt=bytes.fromhex(kdf["salt"]),
            master_key_id=UUID(hex=master_key["id"]),
        ),
        Wrapped(
            bytes.fromhex(master_key["nonce"]),
            wrapped[:-TAG_BYTES],
            wrapped[-TAG_BYTES:],
        ),
    )


def canonical(fields: dict[str, Any]) -> bytes:
    """Encode a JSON object in the one way that authentication and checksum agree on."""
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


def checksum(fields: dict[str, Any]) -> str:
    """Return what tells an accident to a JSON object from its authentic form: 64 digits."""
    return hashlib.sha256(canonical(fields)).hexdigest()


def _damaged(path: Path, why: str) -> KeystoreDamagedError:
    return KeystoreDamagedError(
        f"{path} is damaged: {why}",
        remedy=f"Move it away. {restore_document(path.parent)}",
    )
