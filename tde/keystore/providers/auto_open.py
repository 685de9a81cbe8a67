"""Opening a keystore without its passphrase: the file auto-open.key (docs/format.md, section 6).

It trades safety for unattended starts: whoever can read the keystore directory can then read
the data. So it exists only after `tde keystore auto-open enable`, and it is a file by itself,
which can lie on a file system that is mounted only while the machine is trusted (a link in the
keystore is not followed) and is best left out of backups.

The file has a key of its own that wraps the master key. That key protects nothing from readers
of the file; it binds the file to its keystore and shows damage.
"""

from __future__ import annotations

import os
import shlex
import struct
from contextlib import suppress
from pathlib import Path
from uuid import UUID

from tde.errors import KeystoreDamagedError, KeystoreError, KeystoreMissingError
from tde.keystore.crypto.secret import SecretBuffer, random_secret, wipe
from tde.keystore.crypto.wrapping import UnwrapError, Wrapped, new_nonce, unwrap, wrap
from tde.keystore.log.writing import write_entry
from tde.keystore.store.document import KeystoreDocument
from tde.keystore.store.files import exclusive_lock, read_private_file, sync_directory
from tde.keystore.store.layout import AUTO_OPEN_NAME, new_auto_open_path
from tde.keystore.store.reading import read_document

RECORD_BYTES = 136
MAGIC = b"TDEAUTO\x01"
_CONTEXT = struct.Struct(">8s16s16s")
# After the context: the key, the nonce, four zeros, the wrapped master key, the tag.
_REST = struct.Struct(">32s12s4s32s16s")


def auto_open_path(directory: Path) -> Path:
    """Return the path of the file in a keystore directory."""
    return directory / AUTO_OPEN_NAME


def master_key_of(path: Path) -> UUID | None:
    """Return the id of the master key that a file says it has; ``None`` when it is no such file.

    Raises:
        KeystoreError: it cannot be read.
    """
    content = read_private_file(path, RECORD_BYTES)
    return UUID(bytes=content[24:40]) if len(content) == RECORD_BYTES else None


def read_auto_open(path: Path, keystore: UUID, master_key_id: UUID) -> SecretBuffer:
    """Return the master key that a file holds; the caller closes it.

    Raises:
        FileNotFoundError: there is no such file.
        KeystoreError: it cannot be read, or is not of this keystore and master key.
    """
    content = bytearray(read_private_file(path, RECORD_BYTES))
    try:
        return _unpack(content, path, keystore, master_key_id)
    finally:
        wipe(content)


def can_open_automatically(directory: Path) -> bool:
    """Tell whether auto-open is enabled for a keystore."""
    return auto_open_path(directory).exists()


def disable_auto_open(directory: Path) -> bool:
    """Remove the file, for good also after a power failure; tell whether there was one.

    Raises:
        KeystoreError: it cannot be removed.
    """
    directory = directory.resolve()
    read_document(directory)  # What is no keystore must not get a lock file.
    path = auto_open_path(directory)
    with exclusive_lock(directory):
        try:
            there_was = os.path.lexists(path)
            if there_was:
                write_entry(directory, "disable auto-open", {}, None)
            path.unlink(missing_ok=True)
            new_auto_open_path(directory).unlink(missing_ok=True)
            sync_directory(directory)
        except OSError as error:
            raise KeystoreError(f"could not remove {path}: {error.strerror}") from error
    return there_was


def pack_auto_open(keystore: UUID, master_key_id: UUID, master_key: SecretBuffer) -> bytearray:
    """Return the content of the file; the caller wipes it."""
    context = _CONTEXT.pack(MAGIC, keystore.bytes, master_key_id.bytes)
    content = bytearray(RECORD_BYTES)
    with random_secret(32) as key:
        wrapped = wrap(key, master_key, new_nonce(), context)
        content[: len(context)] = context
        with key.view as view:
            content[len(context) : len(context) + 32] = view
    content[72:84] = wrapped.nonce
    content[88:120] = wrapped.ciphertext
    content[120:] = wrapped.tag
    return content


class AutoOpenProvider:
    """Takes the master key from the file, after auto-open was enabled."""

    def unwrap_master_key(self, directory: Path, document: KeystoreDocument) -> SecretBuffer:
        """Return the master key; see :class:`~tde.keystore.providers.provider.MasterKeyProvider`.

        Raises:
            KeystoreMissingError: auto-open is not enabled.
            KeystorePermissionError: the file is open to others or not ours.
            KeystoreDamagedError: it cannot be used.
        """
        path = _current_path(directory, document)
        try:
            content = _read(path, auto_open_path(directory))
        except FileNotFoundError:
            raise KeystoreMissingError(
                f"the keystore {directory} does not open by itself: there is no {path}",
                remedy=f"Give the passphrase, or enable it: {_enable(directory)}",
            ) from None
        header = document.header
        try:
            return _unpack(content, path, header.uuid, header.master_key_id)
        finally:
            wipe(content)


def _current_path(directory: Path, document: KeystoreDocument) -> Path:
    """Return the file for the master key that counts, also when its rotation was interrupted."""
    new = new_auto_open_path(directory)
    with suppress(FileNotFoundError):
        if master_key_of(new) == document.header.master_key_id:
            return new
    return auto_open_path(directory)


def _read(path: Path, usual: Path) -> bytearray:
    try:
        return bytearray(read_private_file(path, RECORD_BYTES))
    except FileNotFoundError:
        if path == usual:
            raise
        # The rotation has given it its usual name meanwhile.
        return bytearray(read_private_file(usual, RECORD_BYTES))


def _unpack(content: bytearray, path: Path, keystore: UUID, master_key_id: UUID) -> SecretBuffer:
    if len(content) != RECORD_BYTES:
        raise _damaged(path, f"it has {len(content)} bytes instead of {RECORD_BYTES}")
    context = bytes(content[: _CONTEXT.size])
    if context != _CONTEXT.pack(MAGIC, keystore.bytes, master_key_id.bytes):
        if context[:24] == MAGIC + keystore.bytes:
            raise _damaged(path, "it has another master key: that of the keystore was rotated")
        raise _damaged(path, "it belongs to another keystore or another version of tde")
    with SecretBuffer(32) as key:
        with key.view as view:
            view[:] = content[_CONTEXT.size : _CONTEXT.size + 32]
        _, nonce, zeros, ciphertext, tag = _REST.unpack_from(content, _CONTEXT.size)
        if any(zeros):
            raise _damaged(path, "its reserved bytes are not zero")
        try:
            return unwrap(key, Wrapped(nonce, ciphertext, tag), context)
        except UnwrapError:
            raise _damaged(path, "its tag does not fit") from None


def _damaged(path: Path, why: str) -> KeystoreDamagedError:
    return KeystoreDamagedError(
        f"{path} is damaged: {why}",
        remedy=f"Give the passphrase, and make the file again: {_enable(path.parent)}",
    )


def _enable(directory: Path) -> str:
    return f"tde keystore auto-open enable --keystore {shlex.quote(str(directory))}"
