"""Rotating the master key: all records wrapped anew, and at no moment half a keystore.

Directory and files at each step, and which master key opens what (docs/format.md, section 6):

1. ``keys.new`` gets every record, wrapped with the new master key; so does auto-open.key.new.
2. keystore.json is replaced by one with the new master key. Until here nothing has happened.
3. ``keys`` becomes ``keys.old``, and ``keys.new`` becomes ``keys``; auto-open.key is replaced.
4. Servers that run get the new master key.
5. ``keys.old`` is removed.

Whoever has one of the two master keys finds every record, because a record is looked for in the
three directories until its master key is that one. So a keystore opens after a kill at any moment,
a server goes on, and the next rotation finishes what is left.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

from tde.errors import KeystoreDamagedError
from tde.keystore.crypto.kdf import SALT_BYTES
from tde.keystore.crypto.secret import random_secret
from tde.keystore.keystore import MASTER_KEY_BYTES, Keystore
from tde.keystore.providers.auto_open import auto_open_path, master_key_of
from tde.keystore.providers.passphrase import PassphraseProvider
from tde.keystore.store.files import (
    exclusive_lock,
    sync_directory,
    write_all_atomically,
    write_atomically,
)
from tde.keystore.store.layout import (
    RecordReader,
    document_path,
    keys_path,
    list_owners,
    new_auto_open_path,
    new_keys_path,
    old_keys_path,
    prepare_directory,
    read_document,
)

Tell = Callable[[Keystore], None]
"""Brings the new master key to the servers that run, or raises."""


def rotate_master_key(
    path: Path, passphrase: bytes | bytearray, tell: Tell = lambda keystore: None
) -> Keystore:
    """Give a keystore a new master key and return it open.

    The keys themselves stay, so no data is touched, and what was encrypted before is read as
    before. Copies of the keystore that were made earlier still open with the old master key.

    Args:
        passphrase: of the keystore; it stays the same.
        tell: is called when the new master key counts and the old one is still of use. When it
            raises, the keystore is sound, and another rotation finishes this one.

    Raises:
        KeystoreError: one of its subclasses. The keystore opens as before.
    """
    path = path.resolve()
    provider = PassphraseProvider(passphrase)
    with exclusive_lock(path):
        document = read_document(path)
        with Keystore(path, document.header, provider.unwrap_master_key(path, document)) as old:
            _finish(old, tell)
            header = replace(document.header, master_key_id=uuid4(), salt=os.urandom(SALT_BYTES))
            rotated = Keystore(path, header, random_secret(MASTER_KEY_BYTES))
            try:
                _prepare(old, rotated)
                write_atomically(document_path(path), rotated.document(provider).encode())
            except BaseException:
                rotated.close()
                # It may have been replaced although its name is not durable: then they are needed.
                if read_document(path).header.master_key_id == document.header.master_key_id:
                    _discard_new(path)
                raise
        try:
            _finish(rotated, tell)
        except BaseException:
            rotated.close()
            raise
    return rotated


def _prepare(old: Keystore, rotated: Keystore) -> None:
    """Write all records, and auto-open.key, with the new master key beside the others."""
    directory = new_keys_path(old.path)
    status = old.path.stat()
    prepare_directory(directory, (status.st_uid, status.st_gid))
    reader = RecordReader(old.path, keys_path(old.path))
    records = {
        directory / owner.file_name: rotated.rewrap(reader.read(owner), owner, old)
        for owner in list_owners(old.path, keys_path(old.path))
    }
    write_all_atomically(records)
    sync_directory(directory)
    if auto_open_path(old.path).exists():
        rotated.write_auto_open(new_auto_open_path(old.path))
    sync_directory(old.path)


def _finish(keystore: Keystore, tell: Tell) -> None:
    """Do what is left of a rotation after keystore.json was replaced; discard one before that."""
    path = keystore.path
    keys, new, old = keys_path(path), new_keys_path(path), old_keys_path(path)
    if new.exists() and _counts(keystore, new):
        if keys.exists():
            keys.rename(old)
        new.rename(keys)
        sync_directory(path)
    _discard_directory(new)
    _settle_auto_open(keystore)
    if old.exists():
        tell(keystore)
        _discard_directory(old)
        sync_directory(path)


def _counts(keystore: Keystore, directory: Path) -> bool:
    """Tell whether the records of ``keys.new`` are those of the master key that counts."""
    if not keys_path(keystore.path).exists():
        return True
    for owner in list_owners(keystore.path, directory):
        record = RecordReader(keystore.path, directory).read(owner)
        return record.header.master_key_id == keystore.master_key_id
    return False


def _settle_auto_open(keystore: Keystore) -> None:
    new = new_auto_open_path(keystore.path)
    if not new.exists():
        return
    if master_key_of(new) == keystore.master_key_id:
        new.rename(auto_open_path(keystore.path))
    else:
        new.unlink()
    sync_directory(keystore.path)


def _discard_new(path: Path) -> None:
    _discard_directory(new_keys_path(path))
    new_auto_open_path(path).unlink(missing_ok=True)


def _discard_directory(directory: Path) -> None:
    if directory.is_symlink():
        raise KeystoreDamagedError(
            f"{directory} is a link", remedy="Find out who made it, and remove it."
        )
    if directory.exists():
        shutil.rmtree(directory)
