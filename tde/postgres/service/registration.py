"""Encrypted clusters that Debian's pg_ctlcluster, and so systemd, starts and stops.

``pg_ctlcluster`` takes options for ``pg_ctl`` from ``pg_ctl.conf``; ``-p`` names the server program
there. Registering makes a directory of stand-ins (:mod:`tde.postgres.cluster.bin_directory`) for
the cluster and names its ``postgres``. Nothing else of Debian's is changed: ``pg_lsclusters``,
``systemctl start postgresql@15-main`` and the start at boot work as before, and upgrades of the
packages overwrite nothing of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from tde.errors import ClusterKeystoreError, DataDirectoryError, InterposerError, TdeError
from tde.postgres.cluster.bin_directory import (
    BinDirectory,
    install_bin_directory,
    is_bin_directory,
    refresh_bin_directory,
    remove_bin_directory,
)
from tde.postgres.cluster.guard import ensure_guards
from tde.postgres.cluster.marker import Marker, read_marker
from tde.postgres.server.binaries import find_binaries
from tde.postgres.server.debian_layout import DebianCluster
from tde.postgres.server.os_user import server_os_user
from tde.postgres.service.pg_ctl_options import OPTIONS_FILE, PgCtlOptions
from tde.postgres.service.places import PROGRAMS_OF_VERSION, default_directory, own_place
from tde.postgres.service.records import Record, all_records, find_record, forget, mounts_of


@dataclass(frozen=True)
class Registration:
    """How pg_ctlcluster starts an encrypted cluster.

    Attributes:
        cluster: of postgresql-common.
        programs: the directory of stand-ins.
        keystore: that opens by itself at each start.
    """

    cluster: DebianCluster
    programs: BinDirectory
    keystore: Path


@dataclass(frozen=True)
class Leftover:
    """The stand-ins of a cluster that was dropped.

    Attributes:
        cluster: that is gone.
        programs: where they are, or were.
        is_removed: whether they were there, and are not any longer.
    """

    cluster: DebianCluster
    programs: Path
    is_removed: bool


def register_cluster(
    cluster: DebianCluster,
    keystore: Path | None = None,
    *,
    directory: Path | None = None,
    bindir: Path | None = None,
) -> Registration:
    """Let pg_ctlcluster start an encrypted cluster from its next start on; repeat it at will.

    Args:
        keystore: by default the one that the cluster remembers.
        directory: for the stand-ins, one for each cluster.
        bindir: PostgreSQL's programs; those that pg_ctlcluster itself runs by default.

    Raises:
        ClusterKeystoreError: the cluster is plain, or the keystore does not open by itself.
        DataDirectoryError: pg_ctl.conf already names another server program.
        TdeError: the directory cannot be made.
    """
    from tde.keystore.opening import open_unattended

    marker = _require_encrypted(cluster)
    os_user = server_os_user(cluster.data_directory)
    programs = (directory or default_directory(cluster)).absolute()
    options = PgCtlOptions.of(cluster.directory)
    options.require_replaceable(programs)
    known = find_record(cluster)
    _require_free(programs, marker, known)
    found = find_binaries(
        bindir or Path(PROGRAMS_OF_VERSION.format(cluster.major)), major=cluster.major
    )
    record = Record(
        cluster,
        programs,
        marker.keystore_uuid,
        keystore and keystore.absolute(),
        _bindir_of_another(bindir, cluster.major),
        mounts_of(cluster),
    )
    with open_unattended(keystore or marker.keystore) as opened:
        if opened.uuid != marker.keystore_uuid:
            raise ClusterKeystoreError(f"{cluster} is encrypted with another keystore's keys")
        made = install_bin_directory(programs, found, os_user, keystore=opened)
    record.write()
    # A cluster that was restored has the configuration of its new machine.
    ensure_guards(cluster.data_directory, marker.keystore, (), os_user)
    options.with_server(programs).write()
    if known is not None and known.programs != programs and not _is_in_use(known):
        _remove_own(known.programs)
    return Registration(cluster, made, keystore or marker.keystore)


def register_again(record: Record, cluster: DebianCluster) -> Registration:
    """Register a cluster as it was registered before, for the programs that are there now.

    Args:
        cluster: that of the record, as it is now.

    Raises:
        TdeError: it is encrypted with other keys now; else as :func:`register_cluster`.
    """
    marker = _require_encrypted(cluster)
    if marker.keystore_uuid != record.keystore_uuid:
        raise ClusterKeystoreError(
            f"{cluster} has the keys of another keystore than when it was registered"
        )
    return register_cluster(
        cluster, record.keystore, directory=record.programs, bindir=record.bindir
    )


def unregister_cluster(cluster: DebianCluster) -> Path | None:
    """Take it back: pg_ctlcluster starts PostgreSQL's own server again, and the stand-ins go.

    Stand-ins elsewhere than in :func:`default_directory` stay: pg_ctl.conf may belong to the
    server's user, who must not choose what root removes.

    Returns:
        The directory of the stand-ins; ``None`` when none was registered.

    Raises:
        OSError: a file cannot be changed.
    """
    directory = _take_back(cluster)
    forget(cluster)
    return directory


def take_over_cluster(cluster: DebianCluster) -> None:
    """Take it back because the programs of its whole version start it; note what there was.

    Raises:
        OSError: a file cannot be changed.
    """
    record = find_record(cluster) or default_record(cluster)
    replace(record, is_waiting=True).write()
    _take_back(cluster)


def _take_back(cluster: DebianCluster) -> Path | None:
    directory = registered_programs(cluster)
    if directory is None:
        return None
    PgCtlOptions.of(cluster.directory).without_server().write()
    if directory == default_directory(cluster):
        remove_bin_directory(directory)
    return directory


def registered_programs(cluster: DebianCluster) -> Path | None:
    """Return the directory of stand-ins with which pg_ctlcluster starts a cluster, if any."""
    return PgCtlOptions.of(cluster.directory).programs


def refresh_registered() -> tuple[list[BinDirectory], list[TdeError]]:
    """Bring the stand-ins of all registered clusters and versions up to date with this tde.

    Only those in the place that is this user's own: what pg_ctl.conf names elsewhere may be the
    server user's, who must not choose where root writes.

    Returns:
        The directories that were brought up to date, and what was wrong with others.

    Raises:
        InterposerError: the C programs were not built.
    """
    refreshed, failed = [], []
    for directory in sorted(own_place().glob("*")):
        if not is_bin_directory(directory):
            continue
        try:
            refreshed.append(refresh_bin_directory(directory))
        except InterposerError:
            raise
        except TdeError as error:
            failed.append(error)
    return refreshed, failed


def remove_leftovers() -> list[Leftover]:
    """Remove the stand-ins of clusters that were dropped since they were registered.

    Only what is written down, and lies in the place that is this user's own, is removed; of
    stand-ins elsewhere it is only forgotten for whom they were. Those that another cluster uses,
    as one that was renamed does, are left alone.

    Raises:
        TdeError: what is written down cannot be understood.
        OSError: a directory cannot be removed.
    """
    left = []
    for record in all_records():
        if record.is_gone and not _is_in_use(record):
            is_removed = _remove_own(record.programs)
            forget(record.cluster)
            left.append(Leftover(record.cluster, record.programs, is_removed))
    return left


def _is_in_use(record: Record) -> bool:
    """Tell whether another cluster may be started with these stand-ins, as a renamed one is."""
    own = record.cluster.directory
    found = own.parents[1].glob(f"*/*/{OPTIONS_FILE}")
    others = [options.parent for options in found if options.parent != own]
    try:
        return any(PgCtlOptions.of(other).programs == record.programs for other in others)
    except (TdeError, OSError):
        return True  # It cannot be known.


def _bindir_of_another(bindir: Path | None, major: int) -> Path | None:
    """Return a directory that was named, unless it is that of postgresql-common."""
    own = Path(PROGRAMS_OF_VERSION.format(major)).resolve().parent
    return None if bindir is None or bindir.resolve().parent == own else bindir.absolute()


def _remove_own(programs: Path) -> bool:
    """Remove a cluster's stand-ins that are written down, where only this user makes any.

    Those of a whole version have its number for a name, and may have been named with --bin.
    """
    is_own = programs.parent == own_place() and not programs.name.isdecimal()
    is_own = is_own and is_bin_directory(programs)
    if is_own:
        remove_bin_directory(programs)
    return is_own


def default_record(cluster: DebianCluster) -> Record:
    """Return what would be written down of a registration without options.

    Releases before have written nothing down.
    """
    marker = _require_encrypted(cluster)
    return Record(
        cluster,
        default_directory(cluster),
        marker.keystore_uuid,
        None,
        None,
        mounts_of(cluster),
    )


def _require_free(programs: Path, marker: Marker, known: Record | None) -> None:
    """Refuse a directory of stand-ins that hands over the keys of another keystore.

    What was made for this cluster, or for one of its name that was dropped, is its own to replace.
    """
    other = read_marker(programs) if is_bin_directory(programs) else None
    if other is None or other.keystore_uuid == marker.keystore_uuid:
        return
    if known is None or known.programs != programs or _is_in_use(known):
        raise DataDirectoryError(
            f"the programs in {programs} hand over the keys of {other.keystore}",
            remedy="Name another directory with --bin.",
        )


def _require_encrypted(cluster: DebianCluster) -> Marker:
    marker = read_marker(cluster.data_directory)
    if marker is None:
        raise ClusterKeystoreError(
            f"{cluster} is not encrypted, so there is nothing to register",
            remedy=f"Stop it, encrypt it, and register it then: pg_ctlcluster {cluster.major} "
            f"{cluster.name} stop; tde pg encrypt -D {cluster.data_directory} --keystore DIR",
        )
    return marker
