"""The keys that an audit needs, as ciphers; closed together when it ends."""

from __future__ import annotations

from dataclasses import dataclass

from tde import _core
from tde.algorithms import Algorithm
from tde.closing import Closing
from tde.errors import KeyMissingError
from tde.keystore import KeyOwner, Keystore
from tde.keystore.crypto.secret import wipe


@dataclass(frozen=True)
class Protection:
    """How the files of a tablespace, or the WAL, are stored.

    Attributes:
        cipher: ``None`` for a tablespace in plaintext, or without a key.
        plaintext: whether the keystore says that it is deliberately not encrypted.
    """

    algorithm: Algorithm | None = None
    cipher: _core.Cipher | None = None
    plaintext: bool = False


def key_for_tablespace(keystore: Keystore, oid: int) -> tuple[Algorithm, bytearray] | None:
    """Return the key of a tablespace, own or derived; ``None`` for a plaintext entry.

    Raises:
        KeyMissingError: it has neither.
        KeystoreError: the record cannot be used.
    """
    return keystore.tablespace_key(oid)


class AuditKeys(Closing):
    """Ciphers by tablespace and for the WAL, made on first use."""

    def __init__(self, keystore: Keystore) -> None:
        self._keystore = keystore
        self._tablespaces: dict[int, Protection] = {}
        self.wal = _protection_of_wal(keystore)

    def tablespace(self, oid: int) -> Protection:
        """Return the protection of a tablespace.

        Raises:
            KeystoreError: its record cannot be used.
        """
        if oid not in self._tablespaces:
            self._tablespaces[oid] = self._load(oid)
        return self._tablespaces[oid]

    @property
    def known_tablespaces(self) -> dict[int, Protection]:
        """The tablespaces that were asked for, by OID."""
        return self._tablespaces

    def _load(self, oid: int) -> Protection:
        try:
            found = key_for_tablespace(self._keystore, oid)
        except KeyMissingError:
            return Protection()
        if found is None:
            return Protection(plaintext=True)
        algorithm, key = found
        return _protection(algorithm, key)

    def close(self) -> None:
        """Wipe the keys."""
        for protection in (self.wal, *self._tablespaces.values()):
            if protection.cipher is not None:
                protection.cipher.close()


def _protection_of_wal(keystore: Keystore) -> Protection:
    key = keystore.unwrap_key(KeyOwner.wal())
    algorithm = next(known for known in Algorithm if known.key_bytes == len(key))
    return _protection(algorithm, key)


def _protection(algorithm: Algorithm, key: bytearray) -> Protection:
    try:
        return Protection(algorithm, _core.Cipher(algorithm.value, key))
    finally:
        wipe(key)
