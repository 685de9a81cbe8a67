"""What a cluster adds to the check of a keystore: its records there, and the keys it needs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from tde.errors import DataDirectoryError, KeystoreError, PostgresError, TdeError
from tde.postgres.cluster import accepted_lines
from tde.postgres.cluster.keymap import KEYMAP_FILE, MAP_SOURCE, KeyMap, KeySource, map_key
from tde.postgres.cluster.landed_keys import known_map, require_derived_key
from tde.postgres.cluster.links import tablespace_oids
from tde.postgres.cluster.marker import MARKER_FILE, Marker, read_marker
from tde.postgres.cluster.scope import Scope
from tde.postgres.facts import BUILT_IN_TABLESPACES
from tde.postgres.server.cluster_files import read_cluster_file

if TYPE_CHECKING:
    from tde.keystore import KeyOwner, Keystore
    from tde.keystore.verification import CheckedFile

_TABLESPACE_MAP = "tablespace_map"
_MISSING_REMEDY = (
    "Add it from another copy of the keystore that has it: tde keystore copy. Without it this "
    "tablespace cannot be read."
)


@dataclass(frozen=True)
class NeededKey:
    """A key that a cluster or its backup needs.

    Attributes:
        use: what needs it, for people.
        file: name of its record in the directory ``keys``.
        problem: what is wrong; empty when the key is there and opens.
    """

    use: str
    file: str
    problem: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class NeededKeys:
    """The keys of a data directory or a base backup.

    Attributes:
        keystore: the keystore that it names; ``None`` when it names none.
        scope: what of it is encrypted.
        keys: what it needs, with what is wrong about each.
        problem: what is wrong with the directory itself; empty when nothing is.
    """

    directory: Path
    keystore: UUID | None = None
    scope: Scope | None = None
    keys: list[NeededKey] = field(default_factory=list)
    problem: str = ""
    remedy: str = ""

    @property
    def good(self) -> bool:
        """Whether the keystore has all that it needs."""
        return not self.problem and not any(key.problem for key in self.keys)


def check_keystore_files(path: Path, keystore: Keystore | None) -> list[CheckedFile]:
    """Check every file of a keystore, those of its clusters included.

    Args:
        keystore: ``None`` when it does not open, so that only forms can be checked.

    Raises:
        KeystoreError: the directory itself cannot be used.
    """
    from tde.keystore.verification import verify_keystore

    return [*verify_keystore(path, keystore), *_check_accepted_lines(path.resolve(), keystore)]


def _check_accepted_lines(path: Path, keystore: Keystore | None) -> Iterator[CheckedFile]:
    from tde.keystore.store.contents import companions
    from tde.keystore.verification import CheckedFile

    what = "accepted lines of a cluster's configuration"
    files = companions(path)
    if not files:
        return
    key, why = None, ""
    if keystore is not None:
        try:
            key = keystore.authentication_key(accepted_lines.LABEL)
        except KeystoreError as error:
            why = f"cannot be checked: {error}"
    for file in files:
        try:
            accepted_lines.check_record(file, key)
        except KeystoreError as error:
            yield CheckedFile(file, what, str(error), error.remedy)
        else:
            yield CheckedFile(file, what, f"{file} {why}" if why else "")


def needed_keys(directory: Path, keystore: Keystore) -> NeededKeys:
    """Say which keys a data directory or a base backup needs, and whether each is there.

    Nothing is changed, and a server may run in it. WAL that is replayed later may make tablespaces
    that are not yet known here.
    """
    try:
        marker = require_marker(directory)
    except PostgresError as error:
        return NeededKeys(directory, problem=str(error), remedy=error.remedy)
    about = NeededKeys(directory, marker.keystore_uuid, marker.scope)
    if marker.keystore_uuid != keystore.uuid:
        return _with_problem(
            about,
            f"{directory} belongs to the keystore {marker.keystore_uuid.hex}, not to this one, "
            f"{keystore.uuid.hex}",
            marker.hint,
        )
    keymap, problem = KeyMap(), None
    try:
        keymap = known_map(directory, keystore.path, map_key(keystore))
        oids = tablespaces_in(directory)
    except (TdeError, OSError) as error:
        problem = error
    about.keys.extend(_of_every_cluster(marker, keystore, keymap))
    if problem is not None:
        return _with_problem(about, str(problem), getattr(problem, "remedy", ""))
    about.keys.extend(_of_wal(keystore, keymap))
    about.keys.extend(_of_tablespaces(directory, marker, keystore, keymap, oids))
    return about


def _with_problem(about: NeededKeys, problem: str, remedy: str) -> NeededKeys:
    return NeededKeys(about.directory, about.keystore, about.scope, about.keys, problem, remedy)


def require_marker(directory: Path) -> Marker:
    """Return the marker of an encrypted cluster or of a backup of one.

    Raises:
        DataDirectoryError: there is none.
    """
    if not directory.is_dir():
        raise DataDirectoryError(
            f"there is no directory {directory}",
            remedy="Check the path, and whether its file system is mounted.",
        )
    marker = read_marker(directory)
    if marker is not None:
        return marker
    if (directory / "base.tar").exists() or list(directory.glob("base.tar.*")):
        raise DataDirectoryError(
            f"{directory} is a backup in tar format",
            remedy="Unpack its base.tar into a directory of its own, and name that.",
        )
    raise DataDirectoryError(
        f"{directory} has no {MARKER_FILE}: it is no encrypted cluster and no backup of one",
        remedy=f"Name the directory that holds PG_VERSION. If {MARKER_FILE} was lost, restore it "
        "from another backup of the cluster.",
    )


def _of_every_cluster(marker: Marker, keystore: Keystore, keymap: KeyMap) -> Iterator[NeededKey]:
    from tde.keystore import KeyOwner

    yield _checked("the WAL", KeyOwner.wal(), keystore)
    for oid, name in BUILT_IN_TABLESPACES.items():
        entry = keymap.find(oid)
        assert entry is not None  # Those have one without an entry of the map, too.
        yield _checked(f"tablespace {oid} ({name})", entry.owner, keystore)
    if marker.scope is Scope.CLUSTER:
        yield _checked("tablespaces made in SQL", KeyOwner.other_tablespaces(), keystore)


def _of_wal(keystore: Keystore, keymap: KeyMap) -> Iterator[NeededKey]:
    """Yield the keys of WAL that came after the first; the map does not know their numbers."""
    from tde.keystore.store.reading import list_owners

    owners = {owner.key_id: owner for owner in list_owners(keystore.path)}
    for key_id in keymap.all_wal_keys:
        owner = owners.get(key_id)
        if owner is None:
            file = f"wal.*.{key_id.hex}.key"
            problem = f"the keystore has no key for the WAL: there is no key file keys/{file}"
            yield NeededKey("the WAL, a later key", file, problem, _MISSING_REMEDY)
        else:
            yield _checked(str(owner), owner, keystore)


def _of_tablespaces(
    directory: Path, marker: Marker, keystore: Keystore, keymap: KeyMap, oids: set[int]
) -> Iterator[NeededKey]:
    for oid in sorted((oids | set(keymap.entries)) - set(BUILT_IN_TABLESPACES)):
        here = oid in oids
        use = f"tablespace {oid}" if here else f"tablespace {oid}, dropped or not in this backup"
        entry = keymap.find(oid)
        if entry is None:
            # Recovery of a backup makes it, and so decides; a plain one was made without tde.
            if marker.scope is Scope.CLUSTER and not (directory / "backup_label").exists():
                yield NeededKey(
                    use,
                    "",
                    f"the key map of {directory} does not say what key tablespace {oid} has",
                    f"Restore {KEYMAP_FILE} from {MAP_SOURCE}.",
                )
            continue
        found = _checked(use, entry.owner, keystore)
        if entry.source is KeySource.DERIVED and not marker.has_map and not found.problem:
            found = _derived(directory, keystore, oid, found)
        # What no file of this directory needs may be missing.
        yield found if here or not found.problem else NeededKey(f"{use}; not here", found.file)


def _derived(directory: Path, keystore: Keystore, oid: int, found: NeededKey) -> NeededKey:
    """Look at pages: before the key map, a file that was lost looked like a derived key."""
    try:
        require_derived_key(directory, keystore, oid)
    except (TdeError, OSError) as error:
        remedy = getattr(error, "remedy", "")
        return NeededKey(found.use, f"{oid}.key", str(error), remedy)
    return found


def _checked(use: str, owner: KeyOwner, keystore: Keystore) -> NeededKey:
    from tde.errors import KeyMissingError, PlaintextEntryError
    from tde.keystore.crypto.secret import wipe

    try:
        wipe(keystore.unwrap_key(owner))
    except PlaintextEntryError:
        return NeededKey(f"{use}, not encrypted", owner.file_name)
    except KeyMissingError as error:
        return NeededKey(use, owner.file_name, str(error), _MISSING_REMEDY)
    except KeystoreError as error:
        return NeededKey(use, owner.file_name, str(error), error.remedy)
    return NeededKey(use, owner.file_name)


def tablespaces_in(directory: Path) -> set[int]:
    """Return the OIDs of the tablespaces in a directory, also in one unpacked from tar files.

    There PostgreSQL makes the links when it starts, from the file tablespace_map.
    """
    oids = set(tablespace_oids(directory))
    try:
        text = read_cluster_file(directory, _TABLESPACE_MAP).decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return oids
    numbers = (line.split(" ", 1)[0] for line in text.splitlines())
    return oids | {int(number) for number in numbers if number.isascii() and number.isdigit()}
