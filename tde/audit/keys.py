"""The keys that an audit needs, as ciphers; closed together when it ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from tde import _core
from tde.algorithms import Algorithm
from tde.closing import Closing
from tde.errors import KeyMissingError
from tde.keystore import KeyOwner, Keystore
from tde.keystore.crypto.secret import wipe
from tde.keystore.store.layout import list_owners
from tde.keystore.store.record import OwnerKind
from tde.postgres.cluster.keymap import KeyMap


@dataclass(frozen=True)
class Protection:
    """How the files of a tablespace, or the WAL, are stored.

    Attributes:
        cipher: ``None`` for a tablespace in plaintext, or without a key.
        plaintext: whether the keystore says that it is deliberately not encrypted.
        other_ciphers: of the WAL, whose segments may have any of its keys.
    """

    algorithm: Algorithm | None = None
    cipher: _core.Cipher | None = None
    plaintext: bool = False
    other_ciphers: tuple[_core.Cipher, ...] = ()


class AuditKeys(Closing):
    """Ciphers by tablespace and for the WAL, made on first use."""

    def __init__(self, keystore: Keystore, read_map: Callable[[], KeyMap]) -> None:
        self._keystore = keystore
        self._read_map = read_map
        self._keymap = read_map()
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
        if self._keymap.find(oid) is None:
            self._keymap = self._read_map()  # A tablespace that was made meanwhile is in it now.
        try:
            found = self._keymap.key_of(self._keystore, oid)
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
            for cipher in protection.other_ciphers:
                cipher.close()


def _protection_of_wal(keystore: Keystore) -> Protection:
    owners = [o for o in list_owners(keystore.path) if o.kind is OwnerKind.LATER_WAL]
    found = []
    for owner in (KeyOwner.wal(), *owners):
        key = keystore.unwrap_key(owner)
        found.append(_protection(Algorithm.of_key(key), key))
    others = tuple(one.cipher for one in found[:-1] if one.cipher is not None)
    return replace(found[-1], other_ciphers=others)


def _protection(algorithm: Algorithm, key: bytearray) -> Protection:
    try:
        return Protection(algorithm, _core.Cipher(algorithm.value, key))
    finally:
        wipe(key)
