"""What a cluster tells the key log of its keystore: which keys it uses, and where it is."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tde.errors import DataDirectoryError, TdeError
from tde.postgres.cluster.key_uses import system_identifier_of, tablespace_label, uses_by_map

if TYPE_CHECKING:
    from tde.keystore import KeyOwner, Keystore
    from tde.keystore.lifecycle.events import Place

_log = logging.getLogger(__name__)

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
    place = place_of(data_directory)
    activate_keys(keystore, {owner: use_label(owner) for owner in keys}, place)


def tell_end_of_use(keystore: Keystore, data_directory: Path, why: str) -> None:
    """Tell that a cluster encrypts nothing any more.

    Raises:
        KeystoreError: it could not be told.
    """
    from tde.keystore import inspect_keystore
    from tde.keystore.lifecycle.events import deactivate_keys

    keys = [key.owner for key in inspect_keystore(keystore.path).keys if key.algorithm is not None]
    deactivate_keys(keystore, dict.fromkeys(keys, why), place_of(data_directory))


def place_of(data_directory: Path) -> Place:
    """Return the cluster in a directory, as the key log names it."""
    from tde.keystore.lifecycle.events import Place

    identifier = None
    # Before initdb, and while a conversion has moved it away, there is no pg_control.
    with suppress(DataDirectoryError):
        identifier = str(system_identifier_of(data_directory))
    return Place(data_directory.absolute(), identifier)


def tell_of_cluster(keystore: Keystore, data_directory: Path) -> None:
    """Tell where a cluster of the keystore is, and which keys it encrypts with.

    What the log knows is not told again; a full disk is no error.

    Raises:
        DataDirectoryError: there is no pg_control.
    """
    from tde.keystore import KeyOwner
    from tde.keystore.lifecycle.events import Place, tell_of_use

    place = Place(data_directory.absolute(), str(system_identifier_of(data_directory)))
    try:
        uses = {use.owner: use.what for use in uses_by_map(data_directory, keystore)}
    except (TdeError, OSError) as error:
        # What keeps a server from its start, the start says.
        _log.warning("%s; the key log is not told which keys %s uses", error, data_directory)
        uses = {}
    # Every tablespace that SQL makes is derived from it, those to come as well.
    tell_of_use(keystore, place, {**uses, KeyOwner.other_tablespaces(): MADE_IN_SQL})
