"""The keys of a cluster that is converted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from tde.algorithms import Algorithm
from tde.convert.blocks import BlockCipher, CipherChange, CipherName
from tde.errors import (
    ClusterKeystoreError,
    ConversionError,
    KeystoreExistsError,
    PlaintextEntryError,
)
from tde.page.codec import PAGE_SIZE, PageCipher
from tde.page.identity import RelationIdentity
from tde.postgres.cluster.keymap import map_key
from tde.postgres.cluster.keys import require_unused_keystore
from tde.postgres.cluster.landed_keys import known_map
from tde.postgres.cluster.links import tablespace_oids
from tde.postgres.cluster.page_ciphers import page_cipher
from tde.postgres.cluster.scope import Scope
from tde.postgres.facts import BUILT_IN_TABLESPACES

if TYPE_CHECKING:
    from tde.keystore import KeyOwner, Keystore

_CHECK_BYTES = 8


def wanted_keys(
    data_directory: Path, scope: Scope, algorithm: Algorithm, tablespaces: Iterable[int]
) -> dict[KeyOwner, Algorithm | None]:
    """Return the key records that an existing cluster needs; None is a plaintext entry.

    Args:
        tablespaces: OIDs of the encrypted ones, for scope ``TABLESPACES``.
    """
    from tde.keystore import KeyOwner

    wanted: dict[KeyOwner, Algorithm | None] = {KeyOwner.wal(): algorithm}
    if scope is Scope.CLUSTER:
        wanted[KeyOwner.other_tablespaces()] = algorithm
        wanted.update({KeyOwner.tablespace(oid): algorithm for oid in BUILT_IN_TABLESPACES})
        return wanted
    named = set(tablespaces)
    for oid in {*BUILT_IN_TABLESPACES, *tablespace_oids(data_directory)}:
        wanted[KeyOwner.tablespace(oid)] = algorithm if oid in named else None
    return wanted


def create_missing_keys(
    keystore: Keystore, wanted: Mapping[KeyOwner, Algorithm | None], *, begun: bool
) -> None:
    """Write the records, in a keystore without any or one that an earlier run has begun to fill.

    Args:
        begun: whether an earlier run with the same aim may have written some of them.

    Raises:
        ClusterKeystoreError: the keystore serves another cluster, or was filled differently.
        KeystoreError: a record cannot be written.
    """
    from tde.keystore import inspect_keystore

    if not begun:
        require_unused_keystore(keystore.path)
    present = {record.owner: record.algorithm for record in inspect_keystore(keystore.path).keys}
    if not present:
        try:
            keystore.create_first_keys(wanted)
        except KeystoreExistsError:
            require_unused_keystore(keystore.path)  # Somebody was faster; this says so.
        return
    if not present.items() <= wanted.items():
        raise ClusterKeystoreError(
            f"the keystore {keystore.path} has keys for another scope, algorithm or cluster than "
            "is asked for now",
            remedy="Repeat the command with the options of its first run, or begin with a new "
            "keystore: tde keystore create. No file of the cluster has been changed.",
        )
    for owner, algorithm in wanted.items():
        if owner in present:
            _authenticate(keystore, owner)
        elif algorithm is None:
            keystore.create_plaintext_entry(owner.oid)
        else:
            keystore.create_key(owner, algorithm)


def _authenticate(keystore: Keystore, owner: KeyOwner) -> None:
    from tde.keystore.crypto.secret import wipe

    try:
        wipe(keystore.unwrap_key(owner))
    except PlaintextEntryError:
        return


@contextmanager
def open_ciphers(
    keystore: Keystore, data_directory: Path
) -> Iterator[dict[CipherName, PageCipher]]:
    """Yield the ciphers of the WAL, and of each encrypted tablespace by its OID.

    Raises:
        KeystoreError: a key is missing or damaged.
    """
    from tde.keystore import KeyOwner
    from tde.keystore.store.reading import list_owners
    from tde.keystore.store.record import OwnerKind

    ciphers: dict[CipherName, PageCipher] = {}
    try:
        keymap = known_map(data_directory, keystore.path, map_key(keystore))
        for owner in (KeyOwner.wal(), *list_owners(keystore.path)):
            if owner.kind in (OwnerKind.WAL, OwnerKind.LATER_WAL) and owner.key_id not in ciphers:
                _add(ciphers, owner.key_id, keystore.key_of(owner))
        for oid in {*BUILT_IN_TABLESPACES, *tablespace_oids(data_directory)}:
            _add(ciphers, oid, keymap.key_of(keystore, oid))
        yield ciphers
    finally:
        for cipher in ciphers.values():
            cipher.close()


def _add(
    ciphers: dict[CipherName, PageCipher],
    name: CipherName,
    found: tuple[Algorithm, bytearray] | None,
) -> None:
    """Add the cipher of a key; what is in plaintext has none."""
    if found is not None:
        ciphers[name] = page_cipher(found)


def key_checks(ciphers: Mapping[CipherName, BlockCipher]) -> dict[str, str]:
    """Return what identifies each key without telling it, by OID or ``wal``.

    Of a key that is replaced it stands there by the OID and ``before``.

    A constant is encrypted as a block that no cluster can have. A later run compares: a record that
    was lost meanwhile would otherwise be replaced by a derived key without anybody noticing.
    """
    identity = RelationIdentity(database=0xFFFF_FFFF, relfilenumber=0xFFFF_FFFF)
    constant = b"\1" * PAGE_SIZE

    def check(cipher: PageCipher) -> str:
        return cipher.encrypt_pages(constant, identity=identity)[:_CHECK_BYTES].hex()

    checks = {}
    for oid, cipher in ciphers.items():
        name = "wal" if oid is None else str(oid)
        if isinstance(oid, UUID):
            name = f"wal {oid.hex}"
        if isinstance(cipher, CipherChange):
            checks[f"{name} before"] = check(cipher.old)
            cipher = cipher.new
        checks[name] = check(cipher)
    return checks


def encrypted_tablespaces(
    data_directory: Path, scope: Scope, tablespaces: Iterable[int]
) -> frozenset[int]:
    """Return the OIDs of the tablespaces that a scope encrypts.

    Raises:
        ConversionError: one is named that does not exist, or scope ``CLUSTER`` is limited.
    """
    present = {*BUILT_IN_TABLESPACES, *tablespace_oids(data_directory)}
    named = frozenset(tablespaces)
    if scope is Scope.CLUSTER:
        if named:
            raise ConversionError(
                "scope cluster encrypts every tablespace, so none can be named",
                remedy="Leave --tablespace out, or use --scope tablespaces.",
            )
        return frozenset(present)
    missing = named - present
    if missing:
        raise missing_tablespace(data_directory, min(missing))
    return named


def missing_tablespace(data_directory: Path, oid: int) -> ConversionError:
    """Return the error for a tablespace that was named by its OID and does not exist."""
    return ConversionError(
        f"the cluster {data_directory} has no tablespace with OID {oid}",
        remedy="See SELECT oid, spcname FROM pg_tablespace, or ls -l pg_tblspc.",
    )
