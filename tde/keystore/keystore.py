"""Creating and opening a keystore, and making and unwrapping the keys inside."""

from __future__ import annotations

import hmac
import os
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from uuid import UUID, uuid4

from tde.algorithms import Algorithm
from tde.closing import Closing
from tde.errors import (
    KeystoreClosedError,
    KeystoreDamagedError,
    KeystoreExistsError,
    PlaintextEntryError,
)
from tde.keystore.crypto.derivation import derive_authentication_key, derive_tablespace_key
from tde.keystore.crypto.kdf import SALT_BYTES, KdfParameters
from tde.keystore.crypto.secret import SecretBuffer, fill_randomly, random_secret, wipe
from tde.keystore.crypto.wrapping import UnwrapError, new_nonce, unwrap_into, wrap
from tde.keystore.handover import HandOver
from tde.keystore.providers.auto_open import AutoOpenProvider, auto_open_path, pack_auto_open
from tde.keystore.providers.passphrase import PassphraseProvider
from tde.keystore.providers.passphrase_form import check_new_passphrase
from tde.keystore.providers.provider import MasterKeyProvider
from tde.keystore.store.document import KeystoreHeader
from tde.keystore.store.files import exclusive_lock, write_atomically
from tde.keystore.store.layout import (
    check_belongs,
    check_place,
    document_path,
    list_owners,
    prepare_directory,
    prepare_keys_directory,
    read_document,
    read_record,
    record_path,
    refuse_foreign_content,
)
from tde.keystore.store.record import PAYLOAD_BYTES, KeyOwner, KeyRecord, RecordHeader

MASTER_KEY_BYTES = 32


class Keystore(Closing):
    """An open keystore, whose master key is in memory until :meth:`close`.

    Attributes:
        path: absolute path of the directory.
        uuid: identity of this keystore; every key record carries it.
        master_key_id: identity of the master key; every key record carries it.
        by_hand: whether a person has typed the passphrase on a terminal to open it.
    """

    by_hand = False

    def __init__(self, path: Path, header: KeystoreHeader, master_key: SecretBuffer) -> None:
        """Hold an unwrapped master key; use :meth:`create` or :meth:`open` instead."""
        self.path = path
        self.uuid: UUID = header.uuid
        self.master_key_id: UUID = header.master_key_id
        self._master_key: SecretBuffer | None = master_key

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
                prepare_keys_directory(path)
                write_atomically(document_path(path), document.encode())
        except BaseException:
            master_key.close()
            raise
        return cls(path, header, master_key)

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
        return cls.open_with(path, PassphraseProvider(passphrase))

    @classmethod
    def open_automatically(cls, path: Path) -> Keystore:
        """Open an existing keystore without its passphrase, after :meth:`enable_auto_open`.

        Raises:
            KeystoreMissingError: there is none, or it does not open by itself.
            KeystoreError: another of its subclasses, as for :meth:`open`.
        """
        return cls.open_with(path, AutoOpenProvider())

    @classmethod
    def open_with(cls, path: Path, provider: MasterKeyProvider) -> Keystore:
        """Open an existing keystore with the master key that a provider brings.

        Raises:
            KeystoreError: one of its subclasses, as for :meth:`open`, or the provider's own.
        """
        path = path.resolve()
        document = read_document(path)
        return cls(path, document.header, provider.unwrap_master_key(path, document))

    def enable_auto_open(self) -> Path:
        """Let the keystore open without its passphrase, and return the file that does it.

        Raises:
            KeystoreClosedError: the keystore was closed.
            KeystoreError: the file cannot be written.
        """
        path = auto_open_path(self.path)
        content = pack_auto_open(self.uuid, self.master_key_id, self._open_master_key())
        try:
            with exclusive_lock(self.path):
                write_atomically(path, content)
        finally:
            wipe(content)
        return path

    @property
    def is_open(self) -> bool:
        """Whether the master key is in memory."""
        return self._master_key is not None

    def close(self) -> None:
        """Wipe the master key; closing again does nothing."""
        if self._master_key is not None:
            self._master_key.close()
            self._master_key = None

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
        written: dict[Path, bytes] = {}
        with exclusive_lock(self.path):
            if list_owners(self.path):
                raise KeystoreExistsError(f"the keystore {self.path} already has keys")
            try:
                for owner, algorithm in wanted.items():
                    record = self._new_record(owner, algorithm)
                    path = record_path(self.path, owner)
                    written[path] = record
                    write_atomically(path, record)
            except BaseException:
                _remove_records(written)
                raise
        return written

    def discard_records(self, written: Mapping[Path, bytes]) -> None:
        """Remove records that protect nothing yet; those that changed since are left alone."""
        with exclusive_lock(self.path):
            _remove_records(written)

    def unwrap_key(self, owner: KeyOwner) -> bytearray:
        """Return the XTS key of ``owner``, 32 or 64 bytes; the caller wipes it.

        Raises:
            KeyMissingError: there is no record.
            PlaintextEntryError: the record is authentic and says "not encrypted".
            KeystoreDamagedError: the record was altered, or swapped with another.
            KeystoreClosedError: the keystore was closed.
        """
        self._open_master_key()  # Before the record is looked for.
        record = read_record(self.path, owner)
        with SecretBuffer(PAYLOAD_BYTES) as payload, payload.view as view:
            algorithm = self.authenticate(record, owner, payload)
            if algorithm is None:
                raise PlaintextEntryError(f"{owner} is recorded as not encrypted, so it has no key")
            return bytearray(view[: algorithm.key_bytes])

    def has_master_key(self, other: SecretBuffer) -> bool:
        """Tell whether another secret is the master key.

        Raises:
            KeystoreClosedError: the keystore was closed.
        """
        with self._open_master_key().view as own, other.view as found:
            return hmac.compare_digest(own, found)

    def authenticate(
        self, record: KeyRecord, owner: KeyOwner, payload: SecretBuffer
    ) -> Algorithm | None:
        """Unwrap a record, and return what its key is for; ``None`` for a plaintext entry.

        Args:
            payload: room for `PAYLOAD_BYTES`, which then begins with the key.

        Raises:
            KeystoreDamagedError, KeystoreClosedError: as :meth:`unwrap_key`.
        """
        header = record.header
        check_belongs(record, self.path, owner, self.uuid)
        if header.master_key_id != self.master_key_id:
            raise KeystoreDamagedError(
                f"{record_path(self.path, owner)} is wrapped with another master key than the one "
                "in keystore.json",
                remedy="Restore the whole keystore directory from one backup.",
            )
        try:
            unwrap_into(payload, self._open_master_key(), record.wrapped, header.pack())
        except UnwrapError:
            raise KeystoreDamagedError(
                f"{record_path(self.path, owner)} is damaged or was altered: it does not match "
                "the master key",
                remedy="Restore this file from a backup of the keystore.",
            ) from None
        return header.algorithm

    def key_of(self, owner: KeyOwner) -> tuple[Algorithm, bytearray] | None:
        """Return the algorithm and the XTS key of an owner, which the caller wipes.

        Returns:
            None when the owner has a plaintext entry.

        Raises:
            KeystoreError: as :meth:`unwrap_key`.
        """
        try:
            key = self.unwrap_key(owner)
        except PlaintextEntryError:
            return None
        # The record is authentic, so its header tells what the key is for.
        return Algorithm.of_key(key), key

    def derived_key(self, oid: int) -> tuple[Algorithm, bytearray]:
        """Return the key of tablespace ``oid`` derived from that of other tablespaces.

        Raises:
            KeystoreError: as :meth:`unwrap_key`, of the key that it is derived from.
        """
        base = self.unwrap_key(KeyOwner.other_tablespaces())
        try:
            algorithm = Algorithm.of_key(base)
            return algorithm, derive_tablespace_key(base, oid, algorithm)
        finally:
            wipe(base)

    def authentication_key(self, label: bytes) -> bytes:
        """Return a key derived from that of the WAL, to authenticate what a label names.

        Raises:
            KeystoreError: as :meth:`unwrap_key`.
        """
        base = self.unwrap_key(KeyOwner.wal())
        try:
            return derive_authentication_key(base, label)
        finally:
            wipe(base)

    def first_authentication_key(self, label: bytes) -> bytes:
        """Return a key derived from the master key, to authenticate what is written before any key.

        Raises:
            KeystoreClosedError: the keystore was closed.
        """
        with self._open_master_key().view as master_key:
            base = bytearray(master_key)
        try:
            return derive_authentication_key(base, label)
        finally:
            wipe(base)

    def hand_over(self) -> HandOver:
        """Return the master key in a form that a server started now can inherit.

        Raises:
            KeystoreClosedError: the keystore was closed.
        """
        return HandOver(self.uuid, self.master_key_id, self._open_master_key(), self.path)

    def __repr__(self) -> str:
        state = "open" if self.is_open else "closed"
        return f"<Keystore {self.uuid.hex} at {self.path}, {state}>"

    def _open_master_key(self) -> SecretBuffer:
        if self._master_key is None:
            raise KeystoreClosedError
        return self._master_key

    def _new_record(self, owner: KeyOwner, algorithm: Algorithm | None) -> bytes:
        """Return a record with a new random key, or a plaintext entry."""
        header = RecordHeader(owner, algorithm, self.uuid, self.master_key_id, new_nonce())
        with SecretBuffer(PAYLOAD_BYTES) as payload:
            if algorithm is not None:
                _fill_with_key(payload, algorithm)
            wrapped = wrap(self._open_master_key(), payload, header.nonce, header.pack())
        return KeyRecord(header, wrapped.ciphertext, wrapped.tag).pack()

    def _store(self, owner: KeyOwner, algorithm: Algorithm | None) -> dict[Path, bytes]:
        record = self._new_record(owner, algorithm)
        path = record_path(self.path, owner)
        with exclusive_lock(self.path):
            # Data may already be encrypted with the old key, so it is never replaced.
            if path.exists():
                raise KeystoreExistsError(f"{owner} already has a key record, {path}")
            write_atomically(path, record)
        return {path: record}


def _remove_records(written: Mapping[Path, bytes]) -> None:
    """Unlink records whose content is what this process wrote; the caller holds the lock."""
    for path, content in written.items():
        # Another cluster's record under the same name must survive whatever went wrong here.
        with suppress(FileNotFoundError):
            if path.read_bytes() == content:
                path.unlink()


def _fill_with_key(payload: SecretBuffer, algorithm: Algorithm) -> None:
    half = algorithm.key_bytes // 2
    with payload.view as view:
        fill_randomly(view[: 2 * half])
        # XTS with two equal halves is not secure (FIPS 140 requires the check). It happens
        # by chance once in 2**128 keys, so a repetition would mean a broken generator.
        if view[:half] == view[half : 2 * half]:
            raise OSError("the kernel's random generator repeats itself")
