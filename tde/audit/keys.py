"""The keys that an audit needs, as ciphers; closed together when it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from tde import _core
from tde.algorithms import Algorithm
from tde.closing import Closing
from tde.errors import KeyMapError, KeyMissingError
from tde.keystore import KeyOwner, Keystore
from tde.keystore.crypto.secret import wipe
from tde.keystore.store.reading import list_owners
from tde.keystore.store.record import OwnerKind
from tde.page.libcrypto import make_cipher
from tde.postgres.cluster.keymap import KEYMAP_FILE, KeyMap, MapEntry


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
    """Ciphers by tablespace and for the WAL, made on first use.

    A base backup has a key map of its own: a tablespace may have another key since.

    Args:
        cluster: the data directory of the cluster.
        read_map: reads the map of a directory.
    """

    def __init__(
        self, keystore: Keystore, cluster: Path, read_map: Callable[[Path], KeyMap]
    ) -> None:
        self._keystore = keystore
        self._cluster = cluster
        self._read_map = read_map
        self._keymaps = {cluster: read_map(cluster)}
        self._found: dict[tuple[Path, int], Protection] = {}
        self._protections: dict[MapEntry, Protection] = {}
        self.wal = _protection_of_wal(keystore)

    def tablespace(self, oid: int, place: Path) -> Protection:
        """Return the protection of a tablespace in one of the directories that are audited.

        Raises:
            KeystoreError: its record cannot be used.
        """
        if (place, oid) not in self._found:
            entry = self._entry(oid, place)
            self._found[place, oid] = Protection() if entry is None else self._of(entry)
        return self._found[place, oid]

    @property
    def known_tablespaces(self) -> Iterator[tuple[int, Protection]]:
        """The tablespaces that were asked for, with their OIDs; one that was rekeyed is twice."""
        for entry, protection in tuple(self._protections.items()):
            yield entry.oid, protection

    def _entry(self, oid: int, place: Path) -> MapEntry | None:
        entry = self._map_of(place).find(oid)
        if entry is None:
            # A tablespace that was made meanwhile is in the cluster's map now.
            self._keymaps[self._cluster] = self._read_map(self._cluster)
            entry = self._keymaps[self._cluster].find(oid)
        return entry

    def _map_of(self, place: Path) -> KeyMap:
        if place not in self._keymaps:
            found = self._keymaps[self._cluster]
            # Without a map of its own, or with a damaged one, the files are judged by the
            # cluster's, and say themselves what is wrong.
            with suppress(KeyMapError):
                if (place / KEYMAP_FILE).exists():
                    found = self._read_map(place)
            self._keymaps[place] = found
        return self._keymaps[place]

    def _of(self, entry: MapEntry) -> Protection:
        if entry not in self._protections:
            self._protections[entry] = self._load(entry)
        return self._protections[entry]

    def _load(self, entry: MapEntry) -> Protection:
        try:
            found = KeyMap([entry]).key_of(self._keystore, entry.oid)
        except KeyMissingError:
            return Protection()
        if found is None:
            return Protection(plaintext=True)
        algorithm, key = found
        return _protection(algorithm, key)

    def close(self) -> None:
        """Wipe the keys."""
        for protection in (self.wal, *self._protections.values()):
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
        return Protection(algorithm, make_cipher(algorithm.value, key))
    finally:
        wipe(key)
