"""Keys before data: what a keystore must have before a server follows another one.

WAL that nobody can decrypt looks like the end of WAL, and pages like noise. So a standby is not
made, and a server does not rejoin, with a keystore that lacks a key which the other one uses.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tde.errors import ClusterKeystoreError, ReplicationError
from tde.postgres.cluster.keymap import KEYMAP_FILE, KeyMap, map_key, parse_map
from tde.postgres.cluster.marker import Marker
from tde.postgres.cluster.scope import Scope
from tde.replication.source import Source

if TYPE_CHECKING:
    from tde.keystore import KeyOwner, Keystore


def require_kept_keystore(source: Source, keystore: Path | None) -> None:
    """Check without a passphrase that a keystore is the one of a server, or that it needs none.

    Raises:
        ClusterKeystoreError: it is not.
        KeystoreError: it cannot be inspected.
    """
    from tde.keystore import keystore_uuid

    name = source.server.name
    if not source.tells_keys:
        return  # The base backup tells, and the first start asks.
    if source.marker is None:
        if keystore is not None:
            raise ClusterKeystoreError(
                f"the server {name} is not encrypted, but a keystore was given",
                remedy="Leave out --keystore. A standby that is there can be encrypted with tde pg "
                "encrypt while the server goes on.",
            )
        return
    wanted = source.marker.keystore_uuid
    if keystore is None:
        raise ClusterKeystoreError(
            f"the server {name} is encrypted, and its standby needs a copy of its keystore, "
            f"{wanted.hex}",
            remedy="Bring one here (tde keystore backup there, scp, tde keystore restore here), "
            "and name it with --keystore.",
        )
    found = keystore_uuid(keystore)
    if found != wanted:
        raise ClusterKeystoreError(
            f"{keystore} is the keystore {found.hex}, and the server {name} is encrypted with "
            f"{wanted.hex}",
            remedy="Name a copy of that keystore with --keystore.",
        )


def require_same_protection(source: Source, marker: Marker | None) -> None:
    """Check that two servers between which blocks are copied are encrypted with one keystore.

    Args:
        marker: tde.json of the server here.

    Raises:
        ReplicationError: the role may not read what the other cluster says of its keys.
        ClusterKeystoreError: one is encrypted and the other is not, or with another keystore.
    """
    if not source.tells_keys:
        raise ReplicationError(
            f"the role that connects to {source.server.name} may not read files there, as "
            "pg_rewind does",
            remedy="tde pg primary there lets it.",
        )
    ours = None if marker is None else marker.keystore_uuid
    theirs = None if source.marker is None else source.marker.keystore_uuid
    if ours != theirs:
        words = [
            "not encrypted" if uuid is None else f"encrypted with the keystore {uuid.hex}"
            for uuid in (ours, theirs)
        ]
        raise ClusterKeystoreError(
            f"the server here is {words[0]}, and {source.server.name} is {words[1]}: blocks of one "
            "are noise in the other",
            remedy="Make this one again, with --base-backup and its keystore; or make a new "
            "standby in another directory: tde pg standby",
        )


def require_keys_of_source(source: Source, keystore: Keystore) -> None:
    """Check that a keystore has every key that a server uses, and that its key map is authentic.

    Raises:
        ClusterKeystoreError: it lacks keys, which are named.
        KeyMapError: what the server says of its keys was altered.
        KeystoreError: the keystore cannot be read.
    """
    from tde.keystore.store.reading import list_owners

    if source.marker is None:
        return
    if source.keymap is None:
        raise ClusterKeystoreError(
            f"the server {source.server.name} does not say which keys its tablespaces have: it has "
            f"no {KEYMAP_FILE}",
            remedy="Restart it once with this release of tde.",
        )
    where = Path(f"{source.server.name}:{KEYMAP_FILE}")
    keymap = parse_map(source.keymap, where, keystore.uuid, map_key(keystore))
    present = set(list_owners(keystore.path))
    later = {owner.key_id for owner in present if owner.key_id is not None}
    missing = [name for owner, name in _of_files(source, keymap) if owner not in present]
    missing += [f"WAL ({key_id.hex})" for key_id in keymap.all_wal_keys if key_id not in later]
    if missing:
        raise ClusterKeystoreError(
            f"the keystore {keystore.path} lacks keys that the server {source.server.name} uses: "
            f"that of {', that of '.join(missing)}",
            remedy="Nothing was changed. Bring them: there tde keystore sync THIS_MACHINE:"
            f"{keystore.path} --keystore DIR; or tde keystore backup there, scp, and here tde "
            "keystore copy",
        )


def _of_files(source: Source, keymap: KeyMap) -> Iterator[tuple[KeyOwner, str]]:
    """Yield whose records the files of a server need, each with what it protects."""
    from tde.keystore import KeyOwner

    assert source.marker is not None
    yield KeyOwner.wal(), "WAL"
    if source.marker.scope is Scope.CLUSTER:
        yield KeyOwner.other_tablespaces(), "tablespaces without a key of their own"
    for oid, name in source.tablespaces.items():
        entry = keymap.find(oid)
        if entry is not None:  # In a cluster of scope tablespaces some have no key.
            yield entry.owner, f"tablespace {name} ({entry.owner.file_name})"
