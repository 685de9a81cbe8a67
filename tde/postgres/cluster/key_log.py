"""What a cluster tells the key log of its keystore: which keys it uses, and where it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tde.postgres.cluster.key_uses import system_identifier_of, tablespace_label

if TYPE_CHECKING:
    from tde.keystore import KeyOwner, Keystore

WAL = "WAL"
MADE_IN_SQL = "tablespaces made in SQL"


def use_label(owner: KeyOwner) -> str:
    """Return what the first keys of a cluster are for, in the words of the key log."""
    from tde.keystore import OwnerKind

    if owner.kind is OwnerKind.TABLESPACE:
        return tablespace_label(owner.oid)
    return WAL if owner.kind is OwnerKind.WAL else MADE_IN_SQL


def tell_first_use(keystore: Keystore, data_directory: Path) -> None:
    """Tell that a cluster begins to encrypt with all keys of its keystore.

    Raises:
        KeystoreError: it could not be told, or a key is marked as one that must not be used.
    """
    from tde.keystore import inspect_keystore
    from tde.keystore.lifecycle.events import activate_keys

    keys = [key.owner for key in inspect_keystore(keystore.path).keys if key.algorithm is not None]
    activate_keys(keystore, {owner: use_label(owner) for owner in keys}, data_directory)


def tell_end_of_use(keystore: Keystore, data_directory: Path, why: str) -> None:
    """Tell that a cluster encrypts nothing any more.

    Raises:
        KeystoreError: it could not be told.
    """
    from tde.keystore import inspect_keystore
    from tde.keystore.lifecycle.events import deactivate_keys

    keys = [key.owner for key in inspect_keystore(keystore.path).keys if key.algorithm is not None]
    deactivate_keys(keystore, dict.fromkeys(keys, why), data_directory)


def tell_of_cluster(keystore: Keystore, data_directory: Path) -> None:
    """Tell where a cluster of the keystore is, unless the log knows it; a full disk is no error."""
    from tde.keystore.lifecycle.events import tell_of_place

    tell_of_place(keystore, data_directory, system_identifier_of(data_directory))
