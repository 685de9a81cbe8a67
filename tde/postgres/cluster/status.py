"""The status of a cluster, found out without a connection and without a passphrase."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tde.errors import TdeError
from tde.postgres.cluster.accepted_lines import new_lines
from tde.postgres.cluster.key_uses import key_ages
from tde.postgres.cluster.keymap import KeyMap
from tde.postgres.cluster.landed_keys import known_map
from tde.postgres.cluster.links import tablespace_oids
from tde.postgres.cluster.marker import Marker, marker_in_use
from tde.postgres.cluster.protection import NO_KEY, Protections
from tde.postgres.cluster.unfinished_conversion import left_journal, read_finished_control_data
from tde.postgres.facts import BUILT_IN_TABLESPACES
from tde.postgres.server.binaries import PostgresBinaries
from tde.postgres.server.control import read_major_version
from tde.postgres.server.counters import IoCounters, io_counters
from tde.postgres.server.interposer import is_interposed
from tde.postgres.server.library_in_use import library_in_use
from tde.postgres.server.os_user import OsUser
from tde.postgres.server.pidfile import read_postmaster_file, read_server_arguments
from tde.postgres.server.published import read_published_status
from tde.printable import printable

if TYPE_CHECKING:
    from tde.keystore import AgeFinding
    from tde.keystore.status import KeyRecordInfo


@dataclass(frozen=True)
class ClusterStatus:
    """A cluster as seen from outside.

    Attributes:
        running: whether a postmaster runs.
        ready: whether it accepts connections (also as a standby).
        server_version: version of the installation, for example ``15.18``.
        state: the state in pg_control, for example ``in production``.
        interposed: whether the server has the interposer loaded; ``None`` when it does not
            run or cannot be examined.
        encrypted: whether the cluster was created with a keystore.
        keystore_problem: why the keystore, or the key map, could not be inspected; empty when
            both could.
        protections: how the WAL and each tablespace with a key is stored, by name
            (or OID, for tablespaces that only SQL knows the name of).
        tablespaces_without_key: OIDs of tablespaces that the server refuses to open.
        new_lines: lines of the configuration that run a program or load a library, and were not
            there when the cluster was last started by hand.
        left_journal: what to know about the journal of a conversion that is still there; empty
            without one.
        key_ages: keys that are older than their limit, or will be soon, and marked ones in use.
        counters: bytes encrypted and decrypted since the start.
        closed: whether sessions use only the built-in tablespaces until the keystore is opened.
        locked: OIDs of tablespaces that no session may use.
        auto_open: in which ways the keystore opens by itself, in words; empty when in none.
        libcrypto: the library that encrypts in the running server; ``None`` where it tells of none.
        libcrypto_version: what that library says of itself, for example
            ``OpenSSL 3.5.8 25 Aug 2026``.
    """

    data_directory: Path
    running: bool
    ready: bool
    pid: int | None
    port: int | None
    socket_directory: str | None
    server_version: str
    state: str
    data_checksums: bool
    encrypted: bool
    interposed: bool | None = None
    keystore: Path | None = None
    keystore_uuid: str | None = None
    keystore_problem: str = ""
    scope: str | None = None
    protections: dict[str, str] = field(default_factory=dict)
    tablespaces_without_key: list[int] = field(default_factory=list)
    new_lines: list[str] = field(default_factory=list)
    left_journal: str = ""
    key_ages: list[AgeFinding] = field(default_factory=list)
    counters: IoCounters | None = None
    closed: bool = False
    locked: list[int] = field(default_factory=list)
    auto_open: list[str] = field(default_factory=list)
    libcrypto: Path | None = None
    libcrypto_version: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the fields as values that the json module can write."""
        document = asdict(self)
        document["data_directory"] = str(self.data_directory)
        document["key_ages"] = [finding.as_json() for finding in self.key_ages]
        document["keystore"] = None if self.keystore is None else str(self.keystore)
        document["libcrypto"] = None if self.libcrypto is None else str(self.libcrypto)
        return document


def read_cluster_status(
    data_directory: Path,
    binaries: PostgresBinaries,
    os_user: OsUser | None,
    keystore: Path | None = None,
) -> ClusterStatus:
    """Collect the status of a cluster.

    Args:
        binaries: the installation that serves the cluster.
        os_user: the user that runs the server.
        keystore: where the keystore is now; where it was at creation when ``None``.

    Raises:
        NoDataDirectoryError: there is none.
    """
    read_major_version(data_directory)
    running = read_postmaster_file(data_directory)
    control = read_finished_control_data(data_directory, binaries, os_user)
    marker = marker_in_use(data_directory)
    return ClusterStatus(
        data_directory=data_directory,
        running=running is not None,
        ready=running is not None and running.status in ("ready", "standby"),
        pid=running.pid if running else None,
        port=running.port if running else None,
        socket_directory=running.socket_directory if running else None,
        server_version=binaries.version_text,
        state=control.state,
        data_checksums=control.data_checksums,
        encrypted=marker is not None,
        interposed=_is_interposed(running.pid) if running else None,
        left_journal=left_journal(data_directory),
        counters=io_counters(running.pid) if running else None,
        **(withheld(running.pid) if running else {}),
        **(_library_fields(running.pid) if running else {}),
        **_keystore_fields(data_directory, marker, keystore),
    )


def _is_interposed(pid: int) -> bool | None:
    try:
        return is_interposed(pid)
    except OSError:
        return None


def _protection_of_wal(keys: Iterable[KeyRecordInfo], keymap: KeyMap) -> dict[str, str]:
    """Return how new WAL is stored, as far as the keystore has the key for it."""
    from tde.keystore import KeyOwner

    wanted = keymap.wal_keys[-1] if keymap.wal_keys else None
    for record in keys:
        is_first = wanted is None and record.owner == KeyOwner.wal()
        is_later = wanted is not None and record.owner.key_id == wanted
        if (is_first or is_later) and record.algorithm is not None:
            return {"WAL": record.algorithm.label}
    return {}


def withheld(pid: int) -> dict[str, Any]:
    """Return what a server withholds from its sessions, empty where it has told nothing.

    Args:
        pid: of its postmaster.
    """
    try:
        published = read_published_status(pid)
    except OSError:
        return {}
    if published is None or published.keys is None:
        return {}
    return {"closed": published.keys.closed, "locked": list(published.keys.locked)}


def _library_fields(pid: int) -> dict[str, Any]:
    try:
        used = library_in_use(pid)
    except OSError:
        return {}
    if used is None:
        return {}
    return {"libcrypto": used.path, "libcrypto_version": used.version or None}


def _new_lines(directory: Path, keystore: Path) -> list[str]:
    found, arguments = [], []
    try:
        arguments = read_server_arguments(directory)
    except (TdeError, OSError) as error:
        found.append(printable(str(error)))
    try:
        found += [str(line) for line in new_lines(directory, keystore, arguments)]
    except TdeError as error:
        found.append(printable(str(error)))
    except OSError as error:
        found.append(f"the configuration could not be looked at: {printable(str(error))}")
    return found


def _key_ages(directory: Path, keystore: Path) -> list[AgeFinding]:
    try:
        found = key_ages(directory, keystore)
    except (TdeError, OSError):
        return []  # What is wrong with the cluster or its keystore stands elsewhere.
    return [finding for finding in found if finding.needs_attention]


def _keystore_fields(
    directory: Path, marker: Marker | None, keystore: Path | None
) -> dict[str, Any]:
    """Return what the marker and the keystore's records say.

    A keystore that is not mounted must not hide the rest of the status.
    """
    if marker is None:
        return {}
    from tde.keystore import inspect_keystore
    from tde.keystore.auto_opening import ways_to_open

    path = keystore or marker.keystore
    fields: dict[str, Any] = {
        "keystore": path,
        "keystore_uuid": marker.keystore_uuid.hex,
        "scope": marker.scope.value,
        "new_lines": _new_lines(directory, path),
    }
    try:
        status = inspect_keystore(path)
    except (TdeError, OSError) as error:
        return {**fields, "keystore_problem": str(error)}
    with suppress(TdeError, OSError):
        fields["auto_open"] = [way.in_words for way in ways_to_open(path)]
    if status.uuid != marker.keystore_uuid:
        problem = f"{path} is another keystore, {status.uuid.hex}"
        return {**fields, "keystore_problem": problem}
    try:
        keymap = known_map(directory, path, None)
    except TdeError as error:
        return {**fields, "keystore_problem": str(error)}
    protections = _protection_of_wal(status.keys, keymap)
    known = Protections(keymap, status.keys)
    without_key = []
    for oid in sorted({*BUILT_IN_TABLESPACES, *tablespace_oids(directory)}):
        protection = known.of(oid)
        if protection == NO_KEY:
            without_key.append(oid)
        else:
            protections[BUILT_IN_TABLESPACES.get(oid, str(oid))] = protection
    return {
        **fields,
        "protections": protections,
        "tablespaces_without_key": without_key,
        "key_ages": _key_ages(directory, path),
    }
