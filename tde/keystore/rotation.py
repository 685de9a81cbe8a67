"""Rotating the master key: all records wrapped anew, and at no moment half a keystore.

Directory and files at each step, and which master key opens what (docs/format.md, section 6):

1. ``keys.new`` gets every record, wrapped with the new master key; so does auto-open.key.new, and
   ``unlock`` an envelope of each provider beside the old one.
2. keystore.json is replaced by one with the new master key. Until here nothing has happened.
3. ``keys`` becomes ``keys.old``, and ``keys.new`` becomes ``keys``; auto-open.key is replaced.
4. Servers that run get the new master key.
5. ``keys.old`` and the envelopes of the old master key are removed.

Whoever has one of the two master keys finds every record, because a record is looked for in the
three directories until its master key is that one. So a keystore opens after a kill at any moment,
a server goes on, and the next rotation finishes what is left.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

from tde.errors import KeystoreDamagedError, KeystoreError
from tde.keystore.crypto.kdf import SALT_BYTES
from tde.keystore.crypto.secret import SecretBuffer, random_secret
from tde.keystore.envelope_rotation import (
    discard_other_envelopes,
    other_envelopes,
    rotated_envelopes,
)
from tde.keystore.keystore import MASTER_KEY_BYTES, Keystore
from tde.keystore.log.reading import ROTATION_EVENT, sealed_secret
from tde.keystore.log.writing import telling_of_failures
from tde.keystore.providers.auto_open import AutoOpenProvider, auto_open_path, read_auto_open
from tde.keystore.providers.passphrase import PassphraseProvider
from tde.keystore.store.contents import being_destroyed, is_remains
from tde.keystore.store.creation import prepare_directory
from tde.keystore.store.document import KeystoreDocument
from tde.keystore.store.files import (
    exclusive_lock,
    sync_directory,
    write_all_atomically,
    write_atomically,
)
from tde.keystore.store.layout import (
    document_path,
    keys_path,
    new_auto_open_path,
    new_keys_path,
    old_keys_path,
)
from tde.keystore.store.reading import RecordReader, list_owners, read_document
from tde.keystore.store.record import PAYLOAD_BYTES

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
        with telling_of_failures(path):
            master_key = provider.unwrap_master_key(path, document)
        with Keystore(path, document.header, master_key) as old:
            _finish(old, tell)
            _require_only_records(path)
            has_auto_open = _has_own_auto_open(old, document)
            header = replace(document.header, master_key_id=uuid4(), salt=os.urandom(SALT_BYTES))
            rotated = Keystore(path, header, random_secret(MASTER_KEY_BYTES))
            rotated.opened_by_passphrase = True
            try:
                _prepare(old, rotated, has_auto_open)
                _log(old, rotated)
                write_atomically(document_path(path), rotated.document(provider).encode())
            except BaseException:
                rotated.close()
                # It may have been replaced although its name is not durable: then they are needed.
                if read_document(path).header.master_key_id == document.header.master_key_id:
                    _discard_new(old)
                raise
        try:
            _finish(rotated, tell)
        except BaseException:
            rotated.close()
            raise
    return rotated


def _require_only_records(path: Path) -> None:
    """Refuse to exchange a directory with files that would be left behind."""
    if unfinished := being_destroyed(path):
        raise KeystoreError(
            f"{unfinished[0]} is there because the destruction of a key was interrupted",
            remedy="Nothing was changed. Finish it first: tde keystore destroy "
            f"{unfinished[0].name.split('.key')[0]} --keystore {path}",
        )
    keys = keys_path(path)
    records = {owner.file_name for owner in list_owners(path, keys)}
    others = {file.name for file in keys.iterdir()} - records
    foreign = sorted(name for name in others if not is_remains(name))
    if foreign:
        raise KeystoreError(
            f"{keys / foreign[0]} is no key record, and a rotation would remove it",
            remedy="Nothing was changed. Move it out of the keystore, and repeat the command.",
        )


def _has_own_auto_open(keystore: Keystore, document: KeystoreDocument) -> bool:
    """Tell whether there is an auto-open.key, and refuse to make a good one of a planted one.

    Raises:
        KeystoreError: it does not open this keystore; or it cannot be replaced.
    """
    file = auto_open_path(keystore.path)
    if not os.path.lexists(file):
        return False
    with AutoOpenProvider().unwrap_master_key(keystore.path, document) as found:
        # A file that is mounted by itself cannot be replaced.
        is_mounted = file.lstat().st_dev != keystore.path.stat().st_dev
        if keystore.has_master_key(found) and not is_mounted:
            return True
    raise KeystoreError(
        f"{file} is mounted, or does not hold the master key, so it cannot be rotated",
        remedy="Nothing was changed. Unmount or remove it, repeat the command, and make it again: "
        f"tde keystore auto-open enable --keystore {keystore.path}",
    )


def _prepare(old: Keystore, rotated: Keystore, has_auto_open: bool) -> None:
    """Write all records, auto-open.key and envelopes for the new master key beside the others.

    Args:
        has_auto_open: as it was found. A file that is put there while providers answer is not made
            good: it was not looked at.
    """
    # Before anything is written, because a provider may be away.
    envelopes = rotated_envelopes(old, rotated)
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
    if has_auto_open:
        rotated.write_auto_open(new_auto_open_path(old.path))
    write_all_atomically(envelopes)
    sync_directory(old.path)


def _log(old: Keystore, rotated: Keystore) -> None:
    """Tell of the rotation; what authenticates entries before it is sealed for the new key."""
    _, secret = old.log_author()
    new_id, new_secret = rotated.log_author()
    ids = {"keystore": old.uuid, "old": old.master_key_id, "new": new_id}
    sealed = sealed_secret(secret, new_secret, ids["keystore"], ids["old"], ids["new"])
    old.log(ROTATION_EVENT, **{name: uuid.hex for name, uuid in ids.items()}, sealed=sealed.hex())


def _finish(keystore: Keystore, tell: Tell) -> None:
    """Do what is left of a rotation after keystore.json was replaced; discard one before that.

    Raises:
        KeystoreError: the records are not as a rotation leaves them. Nothing was removed.
    """
    path = keystore.path
    old = old_keys_path(path)
    try:
        _settle_keys(keystore)
        _require_unneeded(keystore)
        _settle_auto_open(keystore)
        discard_other_envelopes(keystore)
        if os.path.lexists(old):
            tell(keystore)
            _discard(keystore, old)
            sync_directory(path)
    except (OSError, ValueError) as error:
        raise KeystoreError(
            f"the rotation of the master key of {path} is not finished: {error}",
            remedy="Nothing is lost. Remove the cause, and repeat the command.",
        ) from error


def _settle_keys(keystore: Keystore) -> None:
    """Let ``keys`` be the records that the master key in keystore.json opens."""
    path = keystore.path
    keys, new, old = keys_path(path), new_keys_path(path), old_keys_path(path)
    if not os.path.lexists(new) and not os.path.lexists(old):
        return
    if not _opens(keystore, keys):
        both = keys.exists() and os.path.lexists(old)
        if not both and _opens(keystore, new):
            if keys.exists():
                keys.rename(old)
            new.rename(keys)
        elif not os.path.lexists(new) and _opens(keystore, old):
            # keystore.json was restored from before the rotation.
            if keys.exists():
                keys.rename(new)
            old.rename(keys)
        else:
            raise KeystoreDamagedError(
                f"the keystore {path} was being rotated, and its master key opens neither all of "
                f"{keys} nor all of another directory of records",
                remedy="Nothing was changed. Make a copy of the whole directory; then restore "
                "keystore.json, or the record that tde keystore verify names, from a backup of "
                "the keystore, and repeat the command.",
            )
        sync_directory(path)
    if os.path.lexists(new):
        _discard(keystore, new)
        sync_directory(path)


def _require_unneeded(keystore: Keystore) -> None:
    """Refuse to remove ways to another master key while a record may need that one.

    When keystore.json was brought back from before a rotation that had ended, nothing but those
    ways has the master key of the records.

    Raises:
        KeystoreDamagedError: the master key in keystore.json does not open every record.
    """
    others = other_envelopes(keystore)
    if os.path.lexists(new := new_auto_open_path(keystore.path)):
        others.append(new)
    if not others or _opens(keystore, keys_path(keystore.path)):
        return
    raise KeystoreDamagedError(
        f"the master key in keystore.json does not open all of {keys_path(keystore.path)}, and "
        f"{others[0]} is for another master key, which may be theirs",
        remedy="Nothing was changed. Make a copy of the whole directory; then restore "
        "keystore.json of after the last rotation, or the record that tde keystore verify names, "
        "from a backup of the keystore, and repeat the command.",
    )


def _opens(keystore: Keystore, directory: Path) -> bool:
    """Tell whether the master key opens every record in a directory.

    Raises:
        KeystoreError: a record cannot be read, which says nothing of its content.
    """
    if not directory.is_dir():
        return False
    try:
        reader = RecordReader(keystore.path, directory)
        with SecretBuffer(PAYLOAD_BYTES) as payload:
            for owner in list_owners(keystore.path, directory):
                keystore.authenticate(reader.read(owner), owner, payload)
    except KeystoreDamagedError:
        return False
    return True


def _discard(keystore: Keystore, directory: Path) -> None:
    """Remove records, when ``keys`` has one for each of them.

    Raises:
        KeystoreDamagedError: it has not, or the directory is a link.
    """
    if directory.is_symlink():
        raise KeystoreDamagedError(
            f"{directory} is a link", remedy="Find out who made it, and remove it."
        )
    path = keystore.path
    kept = set(list_owners(path, keys_path(path)))
    missing = [owner for owner in list_owners(path, directory) if owner not in kept]
    if missing:
        raise KeystoreDamagedError(
            f"{directory} has the key of {missing[0]}, and {keys_path(path)} has not",
            remedy="Nothing was removed. Make a copy of the whole directory, then restore "
            f"{keys_path(path) / missing[0].file_name} from a backup of the keystore, and repeat "
            "the command.",
        )
    shutil.rmtree(directory)


def _settle_auto_open(keystore: Keystore) -> None:
    """Give auto-open.key.new its name when it opens the keystore; else it is of no use."""
    new = new_auto_open_path(keystore.path)
    if not os.path.lexists(new):
        return
    if _is_own(keystore, new):
        new.rename(auto_open_path(keystore.path))
    else:
        new.unlink()
    sync_directory(keystore.path)


def _is_own(keystore: Keystore, file: Path) -> bool:
    if file.is_symlink():
        return False
    try:
        with read_auto_open(file, keystore.uuid, keystore.master_key_id) as found:
            return keystore.has_master_key(found)
    except KeystoreDamagedError:  # Another error says nothing of its content.
        return False


def _discard_new(old: Keystore) -> None:
    shutil.rmtree(new_keys_path(old.path), ignore_errors=True)
    new_auto_open_path(old.path).unlink(missing_ok=True)
    with suppress(KeystoreError, OSError):  # The error that led here says more.
        discard_other_envelopes(old)
