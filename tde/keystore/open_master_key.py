"""A master key in memory, and what it does: it unwraps and wraps keys, and derives others."""

from __future__ import annotations

import hmac
from dataclasses import replace
from pathlib import Path
from uuid import UUID

from tde.algorithms import Algorithm
from tde.closing import Closing
from tde.errors import (
    KeystoreBusyError,
    KeystoreClosedError,
    KeystoreDamagedError,
    KeystoreError,
    PlaintextEntryError,
)
from tde.keystore.crypto.derivation import derive_authentication_key, derive_tablespace_key
from tde.keystore.crypto.secret import SecretBuffer, fill_randomly, wipe
from tde.keystore.crypto.wrapping import UnwrapError, new_nonce, unwrap_into, wrap
from tde.keystore.handover import HandOver
from tde.keystore.log.entry import LABEL as LOG_LABEL, LogEntry
from tde.keystore.log.writing import write_entry, write_entry_if_possible
from tde.keystore.message import (
    LABEL,
    seal_master_key,
    seal_wal_key,
    seal_withheld,
    server_code,
)
from tde.keystore.providers.passphrase import PassphraseProvider
from tde.keystore.store.document import KeystoreDocument, KeystoreHeader
from tde.keystore.store.envelope import (
    LABEL as ENVELOPE_LABEL,
    Envelope,
    EnvelopeHeader,
    make_envelope,
)
from tde.keystore.store.files import is_read_only
from tde.keystore.store.layout import record_path
from tde.keystore.store.reading import (
    another_master_key,
    check_belongs,
    find_record,
    list_owners,
    read_document,
    require_no_rotation,
)
from tde.keystore.store.record import PAYLOAD_BYTES, KeyOwner, KeyRecord, RecordHeader
from tde.keystore.store.remedies import replace_key


class OpenMasterKey(Closing):
    """The master key of a keystore, in memory until :meth:`close`; it writes no file.

    Attributes:
        path: absolute path of the keystore's directory.
        uuid: identity of the keystore; every key record carries it.
        master_key_id: identity of the master key; every key record carries it.
    """

    def __init__(self, path: Path, header: KeystoreHeader, master_key: SecretBuffer) -> None:
        """Hold an unwrapped master key; a :class:`~tde.keystore.Keystore` reads it."""
        self.path = path
        self.uuid: UUID = header.uuid
        self.master_key_id: UUID = header.master_key_id
        self._header = header
        self._master_key: SecretBuffer | None = master_key

    @property
    def is_open(self) -> bool:
        """Whether the master key is in memory."""
        return self._master_key is not None

    def close(self) -> None:
        """Wipe the master key; closing again does nothing."""
        if self._master_key is not None:
            self._master_key.close()
            self._master_key = None

    def unwrap_key(self, owner: KeyOwner) -> bytearray:
        """Return the XTS key of ``owner``, 32 or 64 bytes; the caller wipes it.

        Raises:
            KeyMissingError: there is no record.
            PlaintextEntryError: the record is authentic and says "not encrypted".
            KeystoreDamagedError: the record was altered, or swapped with another.
            KeystoreClosedError: the keystore was closed.
        """
        self._open_master_key()  # Before the record is looked for.
        record = find_record(self.path, owner, self.master_key_id)
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
            self.require_current_master_key()
            raise another_master_key(self.path, owner)
        try:
            unwrap_into(payload, self._open_master_key(), record.wrapped, header.pack())
        except UnwrapError:
            path = record_path(self.path, owner)
            raise KeystoreDamagedError(
                f"{path} is damaged or was altered: it does not match the master key",
                remedy=replace_key(path),
            ) from None
        return header.algorithm

    def require_rotated(self) -> None:
        """Check that what is written now can be read until the next rotation.

        Raises:
            KeystoreError: a rotation was interrupted.
            KeystoreBusyError: the master key was rotated meanwhile.
        """
        require_no_rotation(self.path)
        self.require_current_master_key()

    def require_current_master_key(self) -> None:
        """Check that the master key is that of keystore.json.

        Raises:
            KeystoreBusyError: it was rotated meanwhile.
        """
        if read_document(self.path).header.master_key_id != self.master_key_id:
            raise KeystoreBusyError(
                f"the master key of {self.path} was rotated after it had been opened",
                remedy="Repeat the command.",
            )

    def rewrap(self, record: KeyRecord, owner: KeyOwner, other: OpenMasterKey) -> bytes:
        """Return a record that the master key of another copy opens, wrapped with this one's.

        Args:
            other: the copy, open; or this keystore as it was before its master key was rotated.

        Raises:
            KeystoreError: as :meth:`unwrap_key`; or the new record does not open.
        """
        header = replace(record.header, master_key_id=self.master_key_id, nonce=new_nonce())
        with SecretBuffer(PAYLOAD_BYTES) as payload, SecretBuffer(PAYLOAD_BYTES) as again:
            other.authenticate(record, owner, payload)
            wrapped = wrap(self._open_master_key(), payload, header.nonce, header.pack())
            made = KeyRecord(header, wrapped.ciphertext, wrapped.tag)
            # A bit that flips in memory must not cost a key.
            self.authenticate(made, owner, again)
            with payload.view as wanted, again.view as found:
                if not hmac.compare_digest(wanted, found):
                    raise KeystoreError(
                        f"the key of {owner} was wrapped anew and is another one",
                        remedy="Nothing was changed. Test the memory of this machine.",
                    )
        return made.pack()

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

    def log_author(self) -> tuple[UUID, bytes]:
        """Return what entries of the key log are authenticated with: the id and a derived secret.

        Raises:
            KeystoreClosedError: the keystore was closed.
        """
        return self.master_key_id, self.first_authentication_key(LOG_LABEL)

    def log(self, event: str, **details: object) -> LogEntry:
        """Write to the key log what is about to be done, and return the entry.

        Raises:
            KeystoreClosedError: the keystore was closed.
            KeystoreError: it could not be written, so it must not be done.
        """
        return write_entry(self.path, event, details, self.log_author())

    def log_what_is_not_stored(self, event: str, **details: object) -> None:
        """As :meth:`log`, for what changes a server alone: a read-only keystore is no obstacle.

        Raises:
            KeystoreClosedError, KeystoreError: as for that.
        """
        if is_read_only(self.path):
            write_entry_if_possible(self.path, event, details, self.log_author())
        else:
            self.log(event, **details)

    def hand_over(self, *, closed: bool = False) -> HandOver:
        """Return the master key in a form that a server started now can inherit.

        Args:
            closed: its sessions use no tablespaces but the built-in ones until it is told to.

        Raises:
            KeystoreClosedError: the keystore was closed.
        """
        master_key = self._open_master_key()
        return HandOver(self.uuid, self.master_key_id, master_key, self.path, closed=closed)

    def __repr__(self) -> str:
        state = "open" if self.is_open else "closed"
        return f"<Keystore {self.uuid.hex} at {self.path}, {state}>"

    def _open_master_key(self) -> SecretBuffer:
        if self._master_key is None:
            raise KeystoreClosedError
        return self._master_key

    def is_key_of(self, pid: int, start_time: int, key: bytes, code: bytes) -> bool:
        """Tell whether a public key was published by a server that has the keys.

        Args:
            start_time: of the process, field 22 of /proc/<pid>/stat.
            key: what it publishes.
            code: what it publishes to prove that.

        Raises:
            KeystoreError: as :meth:`unwrap_key`, of the WAL.
        """
        expected = server_code(self.uuid, pid, start_time, key, self.authentication_key(LABEL))
        return hmac.compare_digest(expected, code)

    def seal_for(self, server: bytes, number: int) -> bytes:
        """Return the master key as a message to a running server (:mod:`tde.keystore.message`).

        Args:
            server: the public key that it publishes.
            number: of the message, higher than the last one's.

        Raises:
            KeystoreError: as :meth:`unwrap_key`, of the WAL.
        """
        code_key = self.authentication_key(LABEL)
        return seal_master_key(
            server, number, self.uuid, self.master_key_id, self._open_master_key(), code_key
        )

    def seal_wal_key_for(self, server: bytes, number: int, key_id: UUID) -> bytes:
        """Return the message that lets a running server write WAL with a key of this keystore.

        Args:
            server, number: as for :meth:`seal_for`.

        Raises:
            KeystoreError: as :meth:`unwrap_key`, of the WAL.
        """
        return seal_wal_key(server, number, self.uuid, key_id, self.authentication_key(LABEL))

    def seal_withheld_for(self, server: bytes, number: int, oid: int, *, give: bool) -> bytes:
        """Return the message that withholds a tablespace from the sessions of a running server.

        Args:
            server, number: as for :meth:`seal_for`.
            oid: of the tablespace; 0 closes the keystore, for all but the built-in ones.
            give: the other way round.

        Raises:
            KeystoreError: as :meth:`unwrap_key`, of the WAL.
        """
        code_key = self.authentication_key(LABEL)
        return seal_withheld(server, number, self.uuid, oid, code_key, give=give)

    def document(self, provider: PassphraseProvider) -> KeystoreDocument:
        """Return the content of keystore.json under a passphrase.

        Raises:
            KeystoreClosedError: the keystore was closed.
            KeystoreError: what was made does not give the master key.
        """
        return provider.wrap_and_compare(self.path, self._header, self._open_master_key())

    def is_own_envelope(self, envelope: Envelope) -> bool:
        """Tell whether an envelope was made by who had this master key.

        Raises:
            KeystoreClosedError: the keystore was closed.
        """
        return envelope.has_code_of(self.first_authentication_key(ENVELOPE_LABEL))

    def make_envelope(self, header: EnvelopeHeader, kek: SecretBuffer) -> Envelope:
        """Return an envelope with the master key under a KEK.

        Raises:
            KeystoreClosedError: the keystore was closed.
        """
        wrapped = wrap(kek, self._open_master_key(), new_nonce(), header.context())
        return make_envelope(header, wrapped, self.first_authentication_key(ENVELOPE_LABEL))

    def require_fitting_record(self) -> None:
        """Check that the master key opens the records, by the first of them, if there is one.

        Raises:
            KeystoreError: it does not, or the record cannot be read.
        """
        owner = next(iter(list_owners(self.path)), None)
        if owner is not None:
            with SecretBuffer(PAYLOAD_BYTES) as payload:
                record = find_record(self.path, owner, self.master_key_id)
                self.authenticate(record, owner, payload)

    def new_record(self, owner: KeyOwner, algorithm: Algorithm | None) -> bytes:
        """Return a record with a new random key, or a plaintext entry."""
        header = RecordHeader(owner, algorithm, self.uuid, self.master_key_id, new_nonce())
        with SecretBuffer(PAYLOAD_BYTES) as payload:
            if algorithm is not None:
                _fill_with_key(payload, algorithm)
            wrapped = wrap(self._open_master_key(), payload, header.nonce, header.pack())
        return KeyRecord(header, wrapped.ciphertext, wrapped.tag).pack()


def _fill_with_key(payload: SecretBuffer, algorithm: Algorithm) -> None:
    half = algorithm.key_bytes // 2
    with payload.view as view:
        fill_randomly(view[: 2 * half])
        # XTS with two equal halves is not secure (FIPS 140 requires the check). It happens
        # by chance once in 2**128 keys, so a repetition would mean a broken generator.
        if view[:half] == view[half : 2 * half]:
            raise OSError("the kernel's random generator repeats itself")
