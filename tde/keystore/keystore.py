"""Creating and opening a keystore, and making and unwrapping the keys inside."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from datetime import datetime, timezone
from pathlib import Path
from uuid import UUID, uuid4

from tde.algorithms import Algorithm
from tde.errors import (
    KeystoreError,
    KeystoreExistsError,
)
from tde.keystore.crypto.kdf import SALT_BYTES, KdfParameters
from tde.keystore.crypto.secret import random_secret, wipe
from tde.keystore.handover import HandOver
from tde.keystore.log.reading import FIRST_EVENT, read_key_log
from tde.keystore.log.writing import begin_log, telling_of_failures, write_entry_if_possible
from tde.keystore.open_master_key import OpenMasterKey
from tde.keystore.providers.auto_open import (
    AutoOpenProvider,
    auto_open_path,
    pack_auto_open,
)
from tde.keystore.providers.passphrase import PassphraseProvider
from tde.keystore.providers.passphrase_form import check_new_passphrase
from tde.keystore.providers.provider import MasterKeyProvider
from tde.keystore.store.creation import (
    check_place,
    prepare_directory,
    prepare_keys_directory,
    refuse_foreign_content,
)
from tde.keystore.store.document import KeystoreHeader
from tde.keystore.store.files import exclusive_lock, write_atomically
from tde.keystore.store.layout import document_path, record_path
from tde.keystore.store.reading import list_owners, read_document
from tde.keystore.store.record import KeyOwner, OwnerKind

MASTER_KEY_BYTES = 32
MOST_LATER_WAL_KEYS = 254  # As many as a server has places for (c_ext/interpose/keys/slots.h).


class Keystore(OpenMasterKey):
    """An open keystore, whose master key is in memory until :meth:`close`.

    Attributes:
        by_hand: whether a person has typed the passphrase on a terminal to open it.
        opened_by_passphrase: whether its passphrase has opened it, or made it. What opens it by
            itself can be replaced by whoever can write to it, with a master key of his own.
        level: what it was opened for: ``full``, or ``wal`` where an unattended way gives sessions
            no encrypted tablespace.
    """

    by_hand = False
    opened_by_passphrase = False
    level = "full"

    @classmethod
    def create(
        cls,
        path: Path,
        passphrase: bytes | bytearray,
        *,
        kdf: KdfParameters | None = None,
        owner: tuple[int, int] | None = None,
    ) -> Keystore:
        """Make a keystore in a new or empty directory and return it open.

        A creation that was interrupted can be repeated: keystore.json is written last, and
        without it there is no keystore.

        Args:
            path: the directory; its parent must exist.
            passphrase: 8 to 200 bytes. There is no way back into the keystore without it.
            kdf: cost of the key derivation.
            owner: (uid, gid) to give the keystore to, which only root can do.

        Raises:
            TypeError: the passphrase is not bytes.
            PassphraseError: the passphrase is too short or too long, or has a form in which it
                cannot be typed.
            KeystoreExistsError: there is a keystore already, or the directory is not empty.
            KeystorePermissionError: the directory is open to others or not ours.
            KeystoreError: it could not be written.
        """
        check_new_passphrase(passphrase)
        check_place(path.absolute())
        # Everything that may fail for want of memory or of an algorithm comes before the first
        # directory, so that no half of a keystore is left.
        header = KeystoreHeader(
            uuid=uuid4(),
            created=datetime.now(timezone.utc).replace(microsecond=0),
            kdf=kdf or KdfParameters(),
            salt=os.urandom(SALT_BYTES),
            master_key_id=uuid4(),
        )
        master_key = random_secret(MASTER_KEY_BYTES)
        try:
            document = PassphraseProvider(passphrase).wrap_master_key(header, master_key)
            prepare_directory(path.absolute(), owner)
            path = path.resolve()
            with exclusive_lock(path):
                refuse_foreign_content(path)
                _refuse_other_log(path)
                prepare_keys_directory(path)
                author = OpenMasterKey(path, header, master_key).log_author()
                begin_log(path, FIRST_EVENT, {"keystore": header.uuid.hex}, author)
                write_atomically(document_path(path), document.encode())
        except BaseException:
            master_key.close()
            raise
        created = cls(path, header, master_key)
        created.opened_by_passphrase = True
        return created

    @classmethod
    def open(cls, path: Path, passphrase: bytes | bytearray) -> Keystore:
        """Open an existing keystore.

        Raises:
            KeystoreMissingError: there is none.
            KeystorePermissionError: it is open to others or not ours.
            KeystoreDamagedError, KeystoreVersionError, KdfParametersError: keystore.json
                cannot be used.
            WrongPassphraseError: the master key does not unwrap.
        """
        opened = cls.open_with(path, PassphraseProvider(passphrase))
        opened.opened_by_passphrase = True
        return opened

    def require_opened_by_passphrase(self, purpose: str) -> None:
        """Refuse what must not rely on a master key that a writer of the keystore has chosen.

        Args:
            purpose: as in "to <purpose>".

        Raises:
            KeystoreError: the keystore was opened by something else.
        """
        if not self.opened_by_passphrase:
            raise KeystoreError(
                f"the keystore {self.path} was not opened by its passphrase, which it takes to "
                f"{purpose}: whoever can write to the keystore can let it open by itself with a "
                "key of his own",
                remedy="Give the passphrase, with one of --passphrase-file, --passphrase-fd or "
                "--passphrase-command, or on a terminal.",
            )

    @classmethod
    def open_automatically(cls, path: Path) -> Keystore:
        """Open an existing keystore without its passphrase, after :meth:`enable_auto_open`.

        Raises:
            KeystoreMissingError: there is none, or it does not open by itself.
            KeystoreError: another of its subclasses, as for :meth:`open`.
        """
        return cls.open_with(path, AutoOpenProvider())

    @classmethod
    def open_with(
        cls,
        path: Path,
        provider: MasterKeyProvider,
        details: Mapping[str, object] | None = None,
        *,
        logged: bool = True,
    ) -> Keystore:
        """Open an existing keystore with the master key that a provider brings.

        Args:
            details: what the key log says besides when that fails.
            logged: whether it says so at all: not of what monitoring tries each minute.

        Raises:
            KeystoreError: one of its subclasses, as for :meth:`open`, or the provider's own.
        """
        path = path.resolve()
        with telling_of_failures(path, details or {}) if logged else nullcontext():
            while True:
                document = read_document(path)
                try:
                    return cls(path, document.header, provider.unwrap_master_key(path, document))
                except KeystoreError:
                    # Of two files that a rotation has changed, one may have been read too early.
                    if read_document(path) == document:
                        raise

    def hand_over(self, *, closed: bool = False) -> HandOver:
        """Return the master key for a server; what was opened at level ``wal`` is closed."""
        return super().hand_over(closed=closed or self.level != "full")

    def enable_auto_open(self) -> Path:
        """Let the keystore open without its passphrase, and return the file that does it.

        Raises:
            KeystoreClosedError: the keystore was closed.
            KeystoreError: the file cannot be written.
        """
        path = auto_open_path(self.path)
        with exclusive_lock(self.path):
            self.require_current_master_key()
            self.log("enable auto-open")
            self.write_auto_open(path)
        return path

    def write_auto_open(self, path: Path) -> None:
        """Write a file that opens the keystore; the caller holds the lock.

        Raises:
            KeystoreClosedError: the keystore was closed.
            KeystoreError: the file cannot be written.
        """
        content = self.auto_open_content()
        try:
            write_atomically(path, content)
        finally:
            wipe(content)

    def auto_open_content(self) -> bytearray:
        """Return what such a file has; the caller wipes it.

        Raises:
            KeystoreClosedError: the keystore was closed.
        """
        return pack_auto_open(self.uuid, self.master_key_id, self._open_master_key())

    def create_key(self, owner: KeyOwner, algorithm: Algorithm) -> dict[Path, bytes]:
        """Make a random key and store it wrapped.

        Returns:
            The content of the record, for :meth:`discard_records`.

        Raises:
            KeystoreExistsError: the owner has a key or a plaintext entry already.
            KeystoreClosedError: the keystore was closed.
        """
        return self._store(owner, algorithm)

    def create_plaintext_entry(self, oid: int) -> None:
        """Record that tablespace ``oid`` is deliberately not encrypted.

        Raises:
            KeystoreExistsError: the tablespace has a key or a plaintext entry already.
            KeystoreClosedError: the keystore was closed.
        """
        self._store(KeyOwner.tablespace(oid), None)

    def create_named_key(self, algorithm: Algorithm | None) -> UUID:
        """Store a key that has a name, for a tablespace to be, and return its name.

        Args:
            algorithm: None makes a plaintext entry.

        Raises:
            KeystoreClosedError: the keystore was closed.
            KeystoreError: the record cannot be written.
        """
        key_id = uuid4()
        self._store(KeyOwner.named(key_id), algorithm)
        return key_id

    def create_wal_key(self, algorithm: Algorithm) -> KeyOwner:
        """Store another key for WAL, and return whose it is. The cluster decides when it counts.

        Raises:
            KeystoreClosedError: the keystore was closed.
            KeystoreError: the record cannot be written, or there are too many.
        """
        with exclusive_lock(self.path):
            self.require_rotated()
            later = [o for o in list_owners(self.path) if o.kind is OwnerKind.LATER_WAL]
            if len(later) >= MOST_LATER_WAL_KEYS:
                raise KeystoreError(
                    f"the keystore {self.path} has {len(later) + 1} keys for WAL, and a server can "
                    "hold no more",
                    remedy="Encrypt the cluster with a new keystore: tde pg decrypt, then tde pg "
                    "encrypt.",
                )
            owner = KeyOwner.later_wal(max((o.oid for o in later), default=1) + 1, uuid4())
            self._log_new_key(owner, algorithm)
            write_atomically(record_path(self.path, owner), self.new_record(owner, algorithm))
        return owner

    def create_first_keys(self, wanted: Mapping[KeyOwner, Algorithm | None]) -> dict[Path, bytes]:
        """Make the keys of a new cluster, all or none, in a keystore that has none at all.

        The lock is held from the look at the directory until the last record is written, so
        that of two clusters that are created at the same time only one gets the keystore.

        Args:
            wanted: the algorithm for each owner; None makes a plaintext entry.

        Returns:
            The content of each record that was written, for :meth:`discard_records`.

        Raises:
            KeystoreExistsError: the keystore has keys.
            KeystoreClosedError: the keystore was closed.
            KeystoreError: a record cannot be written; those already written are removed.
        """
        self.require_opened_by_passphrase("make the first keys of a cluster")
        written: dict[Path, bytes] = {}
        with exclusive_lock(self.path):
            self.require_rotated()
            if list_owners(self.path):
                raise KeystoreExistsError(f"the keystore {self.path} already has keys")
            try:
                for owner, algorithm in wanted.items():
                    self._log_new_key(owner, algorithm)
                    record = self.new_record(owner, algorithm)
                    path = record_path(self.path, owner)
                    written[path] = record
                    write_atomically(path, record)
            except BaseException:
                _remove_records(written)
                self._log_discarded(written)
                raise
        return written

    def discard_records(self, written: Mapping[Path, bytes]) -> None:
        """Remove records that protect nothing yet; those that changed since are left alone."""
        with exclusive_lock(self.path):
            _remove_records(written)
            self._log_discarded(written)

    def _store(self, owner: KeyOwner, algorithm: Algorithm | None) -> dict[Path, bytes]:
        record = self.new_record(owner, algorithm)
        path = record_path(self.path, owner)
        with exclusive_lock(self.path):
            self.require_rotated()
            # Data may already be encrypted with the old key, so it is never replaced.
            if path.exists():
                raise KeystoreExistsError(f"{owner} already has a key record, {path}")
            self._log_new_key(owner, algorithm)
            write_atomically(path, record)
        return {path: record}

    def _log_discarded(self, written: Mapping[Path, bytes]) -> None:
        """Tell of keys that are not there any more: what is told of them would look like a loss.

        They have protected nothing. So they go also where the disk is full, which may be why.
        """
        if written:
            details = {"keys": [path.name for path in written]}
            write_entry_if_possible(self.path, "discard keys", details, self.log_author())

    def _log_new_key(self, owner: KeyOwner, algorithm: Algorithm | None) -> None:
        label = "not encrypted" if algorithm is None else algorithm.label
        # Releases that do not write down when a key is activated do not write its state either.
        self.log("create key", key=owner.file_name, algorithm=label, state="pre-activation")


def _refuse_other_log(path: Path) -> None:
    """Refuse a directory with the log of a keystore that was used; a new one would replace it.

    Raises:
        KeystoreExistsError: there is one.
    """
    # A creation that was interrupted has left one entry.
    log = read_key_log(path)
    if len(log.entries) + len(log.problems) > 1:
        raise KeystoreExistsError(
            f"{log.path} is the log of a keystore that was used here",
            remedy="Choose another directory, or move that file away.",
        )


def _remove_records(written: Mapping[Path, bytes]) -> None:
    """Unlink records whose content is what this process wrote; the caller holds the lock."""
    for path, content in written.items():
        # Another cluster's record under the same name must survive whatever went wrong here.
        with suppress(FileNotFoundError):
            if path.read_bytes() == content:
                path.unlink()
