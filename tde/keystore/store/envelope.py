"""An envelope: the master key under a key that a provider has wrapped (docs/format.md, section 6).

``unlock/<name>.<master key id>.json`` has a random key-encryption key (KEK) that only the provider
unwraps, and the master key under the KEK. So the provider sees neither master key nor data keys.
The id in the name lets a rotation write all new envelopes before keystore.json is replaced.

A rotation makes each envelope anew without opening the old one, because custodians would have to
come for that. So an envelope also has a code under a key that is derived from the master key: or
whoever can write to the directory could have the next master key wrapped for a provider of theirs.
"""

from __future__ import annotations

import hmac
import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from tde.errors import KeystoreDamagedError, KeystoreVersionError
from tde.keystore.crypto.wrapping import NONCE_BYTES, TAG_BYTES, Wrapped
from tde.keystore.store.contents import is_envelope_name
from tde.keystore.store.document import canonical, checksum
from tde.keystore.store.files import check_private_directory, read_private_file
from tde.keystore.store.layout import envelope_path, unlock_path

FORMAT = "tde-unlock"
LABEL = b"tde unlock"
"""Of the key of codes, HKDF-SHA256 of the master key."""
VERSION = 1
LEVELS = ("full", "wal")
KEK_BYTES = 32
LONGEST_ENVELOPE = 64 * 1024
"""Bytes; a real one has less than four thousand."""
LONGEST_CACHE = 7 * 24 * 3600
"""Seconds; what an officer may let a restart do without the provider."""
PARAMETER_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
_LONGEST_WRAPPED_KEK = 16 * 1024
_LONGEST_VALUE = 4096


@dataclass(frozen=True)
class EnvelopeHeader:
    """The fields that the wrapping of the master key authenticates: all but the wrapped key.

    Attributes:
        name: how people call it.
        keystore: identity of the keystore that it opens.
        master_key_id: of the master key that it holds.
        type: of the provider, by the name of its entry point.
        unattended: whether it is tried when nobody says what opens the keystore.
        level: ``full``, or ``wal`` where sessions get no encrypted tablespace from it.
        cache_seconds: how long the kernel may keep the KEK for an outage; 0 is not at all.
        parameters: what the provider needs to find its key. None of it is secret.
        wrapped_kek: opaque bytes of the provider.

    Raises:
        ValueError: a field has no value that it may have.
    """

    name: str
    keystore: UUID
    master_key_id: UUID
    type: str
    unattended: bool
    level: str
    cache_seconds: int
    parameters: Mapping[str, str]
    wrapped_kek: bytes

    def __post_init__(self) -> None:
        fitting = (
            # Types are compared because 1 equals True, and both would come back as they were.
            type(self.unattended) is bool
            and type(self.cache_seconds) is int
            and type(self.name) is type(self.type) is str
            and is_envelope_name(self.name)
            and PARAMETER_NAME.fullmatch(self.type)
            and self.level in (LEVELS if self.unattended else LEVELS[:1])
            and 0 <= self.cache_seconds <= LONGEST_CACHE
            and 0 < len(self.wrapped_kek) <= _LONGEST_WRAPPED_KEK
            and all(map(_is_parameter, self.parameters.keys(), self.parameters.values()))
        )
        if not fitting:
            raise ValueError("a field has a value that it may not have")

    def fields(self) -> dict[str, Any]:
        """Return the header as it stands in the file."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "name": self.name,
            "keystore": self.keystore.hex,
            "master_key_id": self.master_key_id.hex,
            "type": self.type,
            "unattended": self.unattended,
            "level": self.level,
            "cache_seconds": self.cache_seconds,
            "parameters": dict(sorted(self.parameters.items())),
            "wrapped_kek": self.wrapped_kek.hex(),
        }

    def context(self) -> bytes:
        """Return the bytes that the wrapped master key is bound to."""
        return canonical(self.fields())


@dataclass(frozen=True)
class Envelope:
    """The whole of an envelope.

    A KEK is made for one envelope and wraps one message, so its nonce cannot repeat.

    Attributes:
        code: HMAC-SHA256 of all else, by which who has the master key knows it for its own.
    """

    header: EnvelopeHeader
    master_key: Wrapped
    code: bytes

    def encode(self) -> bytes:
        """Return the content of the file, which is the same for equal envelopes."""
        fields = _body(self.header, self.master_key)
        fields["code"] = self.code.hex()
        fields["checksum"] = checksum(fields)
        return json.dumps(fields, indent=2).encode() + b"\n"

    def has_code_of(self, secret: bytes) -> bool:
        """Tell whether the code is of the key that is derived from a master key for that."""
        return hmac.compare_digest(_code(self.header, self.master_key, secret), self.code)


def make_envelope(header: EnvelopeHeader, master_key: Wrapped, secret: bytes) -> Envelope:
    """Return an envelope with its code.

    Args:
        secret: derived from the master key, with `LABEL`.
    """
    return Envelope(header, master_key, _code(header, master_key, secret))


def _body(header: EnvelopeHeader, master_key: Wrapped) -> dict[str, Any]:
    fields = header.fields()
    fields["nonce"] = master_key.nonce.hex()
    fields["wrapped_master_key"] = (master_key.ciphertext + master_key.tag).hex()
    return fields


def _code(header: EnvelopeHeader, master_key: Wrapped, secret: bytes) -> bytes:
    return hmac.digest(secret, canonical(_body(header, master_key)), "sha256")


def kek_context(keystore: UUID, master_key_id: UUID, name: str) -> bytes:
    """Return what a provider that can do so binds the wrapped KEK to: printable ASCII."""
    return f"tde-unlock:{VERSION}:{keystore.hex}:{master_key_id.hex}:{name}".encode()


def read_envelope(directory: Path, name: str, keystore: UUID, master_key_id: UUID) -> Envelope:
    """Return an envelope of a keystore; its form was checked, its authenticity was not.

    Raises:
        FileNotFoundError: there is none of this name for this master key.
        KeystoreError: one of its subclasses, for whatever is wrong.
    """
    path = envelope_path(directory, name, master_key_id)
    try:
        check_private_directory(unlock_path(directory))
    except NotADirectoryError:
        raise FileNotFoundError(path) from None
    envelope = parse_envelope(read_private_file(path, LONGEST_ENVELOPE), path)
    header = envelope.header
    if (header.name, header.keystore, header.master_key_id) != (name, keystore, master_key_id):
        raise _damaged(path, "it is the envelope of another keystore, master key or name")
    return envelope


def parse_envelope(data: bytes, path: Path) -> Envelope:
    """Return the envelope in ``data``; ``path`` names it in error messages.

    The checksum only tells an accident from a provider that gives another key. Against a forger
    stands the authentication of the header when the master key is unwrapped.

    Raises:
        KeystoreDamagedError: the content is not, byte for byte, what tde writes.
        KeystoreVersionError: another format version.
    """
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "it is not JSON") from error
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        raise _damaged(path, "it is no envelope of a tde keystore")
    if fields.get("version") != VERSION:
        raise KeystoreVersionError(
            f"{path} has envelope format {fields.get('version')!r}; this release knows {VERSION}",
            remedy="Use the release of tde that wrote it, or restore it if it was altered.",
        )
    if fields.pop("checksum", None) != checksum(fields):
        raise _damaged(path, "its checksum does not match")
    try:
        envelope = _from_fields(fields)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(path, "a field is missing or malformed") from error
    # As for keystore.json: whatever a parser is lenient about differs from our own encoding.
    if envelope.encode() != data:
        raise _damaged(path, "it has fields or a form that tde does not write")
    return envelope


def remove_envelope_command(directory: Path, name: str) -> str:
    """Return the command that removes an envelope, to be added again."""
    return f"tde keystore provider remove {name} --keystore {shlex.quote(str(directory))}"


def _from_fields(fields: dict[str, Any]) -> Envelope:
    wrapped = bytes.fromhex(fields["wrapped_master_key"])
    nonce = bytes.fromhex(fields["nonce"])
    code = bytes.fromhex(fields["code"])
    if (len(nonce), len(wrapped), len(code)) != (NONCE_BYTES, 32 + TAG_BYTES, 32):
        raise ValueError("the wrapped master key or the code has another length")
    return Envelope(
        EnvelopeHeader(
            name=fields["name"],
            keystore=UUID(hex=fields["keystore"]),
            master_key_id=UUID(hex=fields["master_key_id"]),
            type=fields["type"],
            unattended=fields["unattended"],
            level=fields["level"],
            cache_seconds=fields["cache_seconds"],
            parameters=fields["parameters"],
            wrapped_kek=bytes.fromhex(fields["wrapped_kek"]),
        ),
        Wrapped(nonce, wrapped[:-TAG_BYTES], wrapped[-TAG_BYTES:]),
        code,
    )


def _is_parameter(name: object, value: object) -> bool:
    """Tell whether a parameter can be kept, and shown on a terminal."""
    return (
        type(name) is type(value) is str
        and PARAMETER_NAME.fullmatch(name) is not None
        and len(value) <= _LONGEST_VALUE
        and all(ord(character) >= 0x20 and ord(character) != 0x7F for character in value)
        # Halves of a character, which JSON can write and UTF-8 cannot.
        and not any(0xD800 <= ord(character) <= 0xDFFF for character in value)
    )


def _damaged(path: Path, why: str) -> KeystoreDamagedError:
    name = path.name.partition(".")[0]
    return KeystoreDamagedError(
        f"{path} is damaged: {why}",
        remedy="Bring this file from a backup of the keystore, or make it again: "
        f"{remove_envelope_command(path.parent.parent, name)}, then tde keystore provider add",
    )
