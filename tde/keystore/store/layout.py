"""The layout of a keystore directory: the names of its files.

keystore.json          the wrapped master key and how to derive the key that wraps it
keys/wal.key           one record per key (docs/format.md)
keys/other.key         of all tablespaces without a record of their own
keys/<OID>.key         of a built-in tablespace, or one made by a release without key ids
keys/<key id>.key      of the tablespace that the map of a cluster gives it to
keys/wal.<n>.<id>.key  of WAL that is written later; the first key stays
keys/*.key.destroying  a key whose destruction was begun; nothing reads it
keys.new, keys.old     the same records with another master key, while that is rotated
lock                   taken by whoever writes; always empty
auto-open.key          opens the keystore without its passphrase
unlock/<name>.<id>.json  opens it by a provider; the id is that of the master key
key.log                no key: who has opened and changed the keystore
key.log.index          no key: what a start needs of the log; made anew when it is missing
accepted-lines.<hex>   no key: what was accepted of a cluster's configuration
"""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

from tde.keystore.store.record import KeyOwner

AUTO_OPEN_NAME = "auto-open.key"
LOG_NAME = "key.log"
INDEX_NAME = "key.log.index"
DESTROYING = ".destroying"
LONGEST_FILE = 1 << 20  # Bytes; a real one has less than a thousand.


def document_path(directory: Path) -> Path:
    """Return the path of keystore.json."""
    return directory / "keystore.json"


def keys_path(directory: Path) -> Path:
    """Return the directory of the key records."""
    return directory / "keys"


def new_keys_path(directory: Path) -> Path:
    """Return where a rotation of the master key prepares the key records."""
    return directory / "keys.new"


def old_keys_path(directory: Path) -> Path:
    """Return where a rotation keeps the records that running servers still need."""
    return directory / "keys.old"


def new_auto_open_path(directory: Path) -> Path:
    """Return where a rotation of the master key prepares auto-open.key."""
    return directory / f"{AUTO_OPEN_NAME}.new"


def unlock_path(directory: Path) -> Path:
    """Return the directory of the envelopes, by which providers open the keystore."""
    return directory / "unlock"


def envelope_path(directory: Path, name: str, master_key_id: UUID) -> Path:
    """Return the path of one envelope."""
    return unlock_path(directory) / f"{name}.{master_key_id.hex}.json"


def record_path(directory: Path, owner: KeyOwner) -> Path:
    """Return the path of one key record."""
    return keys_path(directory) / owner.file_name


def destroying_path(directory: Path, owner: KeyOwner) -> Path:
    """Return where a key record is while it is being destroyed; nothing reads it as a record."""
    path = record_path(directory, owner)
    return path.with_name(f"{path.name}{DESTROYING}")
