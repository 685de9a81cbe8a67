"""Taking a base backup of a running server and sealing it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from tde.backup.reading import Reader
from tde.backup.seal import LABEL, Seal, new_seal, seal_path
from tde.errors import BackupError
from tde.postgres.cluster.incremental_backups import require_same_keys_since
from tde.postgres.cluster.initialize import prepared_directory, remove_files
from tde.postgres.cluster.keymap import map_key, read_map
from tde.postgres.cluster.links import tablespace_oids
from tde.postgres.cluster.scope import Scope
from tde.postgres.facts import BUILT_IN_TABLESPACES
from tde.postgres.server.control import read_control_data
from tde.replication.standby import require_free, run_base_backup

if TYPE_CHECKING:
    from tde.keystore import Keystore
    from tde.postgres.cluster.cluster import Cluster

MANIFEST = "backup_manifest"
TAR = "tar"
PLAIN = "plain"


@dataclass(frozen=True)
class BackupOptions:
    """How a backup is taken.

    Attributes:
        form: ``tar`` or ``plain``.
        incremental: the manifest of the backup before; None for a full one.
        rate: as of pg_basebackup, for example ``50M``; empty for as fast as it goes.
        mapping: of tablespaces in a plain backup: where each is, and where it goes.
    """

    form: str = TAR
    incremental: Path | None = None
    rate: str = ""
    mapping: Sequence[tuple[Path, Path]] = ()


def take_backup(
    cluster: Cluster, keystore: Keystore, destination: Path, options: BackupOptions
) -> Seal:
    """Take a base backup into a new or empty directory, and seal it beside.

    What pg_basebackup says of its progress goes where this process's own output goes.

    Raises:
        ServerNotRunningError: there is no server.
        BackupError: the seal cannot be made, as where there is one already.
        ReplicationError: a place for a tablespace is not empty.
        DataDirectoryError: the directory is not empty.
        ClusterKeystoreError: an incremental backup could not be combined.
        ProgramError: pg_basebackup has failed; nothing of it is left.
    """
    arguments = _arguments(cluster, destination, options)
    require_same_keys_since(cluster, arguments)
    if destination.is_mount():
        raise BackupError(
            f"{destination} is a mount point, and the seal of a backup lies beside it",
            remedy="Name a directory in it.",
        )
    for old, new in options.mapping:
        require_free(old, new)
    began = now()
    with (
        prepared_directory(destination, cluster.os_user),
        new_seal(seal_path(destination), cluster.os_user) as file,
    ):
        try:
            run_base_backup(
                cluster,
                keystore,
                arguments,
                what="pg_basebackup",
                remedy="What it has made is removed. See what it says above, and the server's log.",
            )
            made = _seal(cluster, keystore, destination, options, began)
            file.write(made.pack(keystore.authentication_key(LABEL)))
        except BaseException:
            # Half a backup looks like a whole one to whoever finds it.
            for directory in [destination, *(new for _, new in options.mapping if new.is_dir())]:
                remove_files(directory, cluster.os_user)
            raise
    return made


def needed_keys(cluster: Cluster, keystore: Keystore) -> list[str]:
    """Return the files of all keys that a backup of a cluster needs now.

    Raises:
        KeyMapError: the key map cannot be used.
    """
    from tde.keystore import KeyOwner
    from tde.keystore.store.reading import list_owners

    keymap = read_map(cluster.data_directory, keystore.uuid, map_key(keystore))
    owners = {KeyOwner.wal()}
    marker = cluster.marker
    if marker is not None and marker.scope is Scope.CLUSTER:
        owners.add(KeyOwner.other_tablespaces())
    for oid in (*BUILT_IN_TABLESPACES, *tablespace_oids(cluster.data_directory)):
        entry = keymap.find(oid)
        if entry is not None:
            owners.add(entry.owner)
    later = set(keymap.all_wal_keys)
    owners.update(owner for owner in list_owners(keystore.path) if owner.key_id in later)
    return sorted(owner.file_name for owner in owners)


def unlisted_files(backup: Path, form: str) -> Iterator[Path]:
    """Yield the files of a backup that its manifest does not tell of."""
    yield backup / MANIFEST
    if form == TAR:
        yield from sorted(path for path in backup.iterdir() if path.name != MANIFEST)
    else:
        yield from sorted(path for path in (backup / "pg_wal").rglob("*") if not path.is_dir())


def _arguments(cluster: Cluster, destination: Path, options: BackupOptions) -> list[str]:
    parameters = cluster.connection_parameters()
    arguments = ["-D", str(destination), "-X", "stream", "-c", "fast", "-P", "-w"]
    arguments += ["-h", str(parameters["host"]), "-p", str(parameters["port"])]
    arguments += ["-U", str(parameters["user"]), "--manifest-checksums=SHA256"]
    arguments += ["-F", options.form]
    if options.rate:
        arguments += ["-r", options.rate]
    if options.incremental is not None:
        arguments += [f"--incremental={options.incremental}"]
    for old, new in options.mapping:
        arguments += ["-T", f"{old}={new}"]
    return arguments


def _seal(
    cluster: Cluster, keystore: Keystore, backup: Path, options: BackupOptions, began: str
) -> Seal:
    control = read_control_data(cluster.data_directory, cluster.binaries, cluster.os_user)
    unlisted = unlisted_files(backup, options.form)
    reader = Reader()
    return Seal(
        keystore_uuid=keystore.uuid.hex,
        keys=tuple(needed_keys(cluster, keystore)),
        system_identifier=control.system_identifier,
        server_version=cluster.binaries.version_text,
        form=options.form,
        is_incremental=options.incremental is not None,
        began=began,
        ended=now(),
        files={str(path.relative_to(backup)): reader.hash(path) for path in unlisted},
    )


def now() -> str:
    """Return the time as a seal has it: UTC, as ISO 8601."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
