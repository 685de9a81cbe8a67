"""Stand-ins in the place of a whole major version's programs, for all of Debian's tools.

``pg_createcluster`` and ``pg_upgradecluster`` run ``/usr/lib/postgresql/N/bin/initdb`` and its like
by their whole paths. ``dpkg-divert`` lets PostgreSQL's own lie beside, in ``tde-stock``, where
upgrades of the package put them from then on, and links to stand-ins take the names. Nothing is
missing at any moment: a name is exchanged by one rename.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from tde.algorithms import Algorithm
from tde.errors import TdeError
from tde.postgres.cluster.bin_directory import (
    PROGRAMS_WITH_KEYS,
    BinDirectory,
    install_bin_directory,
    remove_bin_directory,
)
from tde.postgres.cluster.marker import read_marker
from tde.postgres.cluster.scope import Scope
from tde.postgres.server.binaries import find_binaries
from tde.postgres.server.debian_layout import DebianCluster, debian_clusters
from tde.postgres.server.os_user import server_os_user
from tde.postgres.server.owned_files import sync_directory
from tde.postgres.service.places import PLACE_OF_ROOT, PROGRAMS_OF_VERSION
from tde.postgres.service.records import find_record
from tde.postgres.service.registration import (
    default_record,
    register_again,
    registered_programs,
    take_over_cluster,
    unregister_cluster,
)

if TYPE_CHECKING:
    from tde.keystore import Keystore

_STOCK = "tde-stock"  # Beside PostgreSQL's own bin.
_DPKG_LOCK = Path("/var/lib/dpkg/lock-frontend")
_NEW = ".tde-new"  # Behind the name of a link or file that is about to take a place.


@dataclass(frozen=True)
class Diversion:
    """The programs of a major version that are stand-ins now.

    Attributes:
        major: the version.
        programs: the directory of stand-ins.
        taken_back: clusters that were registered by themselves, which is no longer needed.
    """

    major: int
    programs: BinDirectory
    taken_back: tuple[DebianCluster, ...]


@dataclass(frozen=True)
class Restored:
    """What came of the clusters of a version when its programs became PostgreSQL's own again.

    Attributes:
        registered: clusters that are registered by themselves again, as they were before.
        left: encrypted clusters that Debian's tools can no longer start.
        failed: what kept some of these from being registered again.
    """

    registered: tuple[DebianCluster, ...]
    left: tuple[DebianCluster, ...]
    failed: tuple[TdeError, ...]


@dataclass(frozen=True)
class _Places:
    """Where the programs of a version are."""

    used: Path  # The names that Debian's tools know.
    stock: Path  # PostgreSQL's own.
    stand_ins: Path

    @classmethod
    def of(cls, major: int) -> _Places:
        used = Path(PROGRAMS_OF_VERSION.format(major))
        return cls(used, used.parent / _STOCK, PLACE_OF_ROOT / str(major))

    def has_stand_in(self, program: Path) -> bool:
        return program.is_symlink() and program.readlink().parent == self.stand_ins


def divert_programs(
    major: int,
    keystore: Keystore,
    *,
    algorithm: Algorithm = Algorithm.AES256,
    scope: Scope = Scope.CLUSTER,
) -> Diversion:
    """Let all of Debian's tools make and start encrypted clusters of a major version.

    Repeat it after an upgrade of tde, or when it was interrupted.

    Args:
        keystore: open, and opens by itself; all clusters made from now on have its keys. One that
            has none yet must have been opened by its passphrase.
        algorithm: for the keys, when the keystore has none yet.
        scope: of the clusters that initdb makes.

    Raises:
        TdeError: not root, no dpkg, or no such version.
        ClusterKeystoreError: the keystore does not open by itself.
    """
    places = _Places.of(major)
    _require_possible(places, major)
    with _no_packages_installed():
        names = _keep_stock(places)
        made = install_bin_directory(
            places.stand_ins,
            find_binaries(places.stock, major=major),
            server_os_user(None),
            keystore=keystore,
            algorithm=algorithm,
            scope=scope,
        )
        # After a power cut a program must not be without the one name while it lacks the other.
        sync_directory(places.stock)
        for name in names:
            # The two together: in between, an upgrade would leave the name to the old program.
            _divert("--add", places.used / name, "--divert", places.stock / name)
            with _taking(places.used / name) as new:
                new.symlink_to(made.path / name)
    return Diversion(major, made, _settle_clusters(major, keystore.uuid))


def undivert_programs(major: int) -> bool:
    """Give PostgreSQL's own programs their names back.

    Clusters that were registered by themselves look for PostgreSQL's own where they are no more,
    so :func:`restore_clusters` or :func:`unregister_cluster` has to follow.

    Returns:
        Whether the programs of the version were stand-ins.

    Raises:
        TdeError: not root, or no dpkg.
    """
    places = _Places.of(major)
    if not places.stock.is_dir():
        return False
    _require_possible(places, major)
    for cluster in _clusters_of(major):
        with suppress(OSError, TdeError):  # Which restore_clusters meets again, and can tell.
            _let_wait(cluster)
    with _no_packages_installed():
        for name in PROGRAMS_WITH_KEYS:
            _give_back(places, name)
        sync_directory(places.used)
        shutil.rmtree(places.stock)
        remove_bin_directory(places.stand_ins)
    return True


def restore_clusters(major: int) -> Restored:
    """Register those clusters of a version by themselves again that were, or had to wait.

    It follows :func:`undivert_programs`; repeat it when it was interrupted.
    """
    registered: list[DebianCluster] = []
    left: list[DebianCluster] = []
    failed: list[TdeError] = []
    for cluster in _clusters_of(major):
        try:
            if _restore(cluster):
                registered.append(cluster)
            elif _is_encrypted(cluster) and registered_programs(cluster) is None:
                left.append(cluster)
        except (OSError, TdeError) as error:
            left.append(cluster)
            remedy = error.remedy if isinstance(error, TdeError) else ""
            what = f"{cluster} is not registered by itself again: {error}"
            failed.append(TdeError(what, remedy=remedy))
    return Restored(tuple(registered), tuple(left), tuple(failed))


def diverted_versions() -> list[int]:
    """Return the major versions whose programs are stand-ins now."""
    places = Path(PROGRAMS_OF_VERSION.format("*")).parent / _STOCK
    found = Path("/").glob(str(places.relative_to("/")))
    return sorted(int(stock.parent.name) for stock in found if stock.parent.name.isdecimal())


def starts_with_version(cluster: DebianCluster) -> bool:
    """Tell whether a cluster is encrypted, and the programs of its whole version have its keys."""
    marker, places = read_marker(cluster.data_directory), _Places.of(cluster.major)
    if marker is None or not places.stock.is_dir():
        return False
    of_version = read_marker(places.stand_ins)
    return of_version is not None and of_version.keystore_uuid == marker.keystore_uuid


def encrypted_clusters() -> list[DebianCluster]:
    """Return the encrypted ones among the clusters of postgresql-common."""
    return [cluster for cluster in debian_clusters() if _is_encrypted(cluster)]


def _is_encrypted(cluster: DebianCluster) -> bool:
    try:
        return read_marker(cluster.data_directory) is not None
    except (OSError, TdeError):
        return True  # There is a marker. Its owner may have made it so; others' count all the same.


def _clusters_of(major: int) -> list[DebianCluster]:
    return [cluster for cluster in debian_clusters() if cluster.major == major]


def _let_wait(cluster: DebianCluster) -> None:
    """Note that a cluster is to be registered again, if its own stand-ins are about to fail."""
    record = find_record(cluster)
    if registered_programs(cluster) is None or (record is not None and record.bindir is not None):
        return
    if _is_encrypted(cluster):
        replace(record or default_record(cluster), is_waiting=True).write()
    else:
        unregister_cluster(cluster)


def _restore(cluster: DebianCluster) -> bool:
    """Register a cluster again that waits for it; tell whether it did."""
    record = find_record(cluster)
    if record is None or not record.is_waiting:
        return False
    if not _is_encrypted(cluster):
        unregister_cluster(cluster)
        return False
    register_again(record, cluster)
    return True


def _require_possible(places: _Places, major: int) -> None:
    if os.geteuid() != 0 or shutil.which("dpkg-divert") is None:
        raise TdeError(
            f"the programs of PostgreSQL {major} are replaced by root on a Debian system only",
            remedy="Register one cluster: tde pg register VERSION/NAME. Or make a directory that "
            "stands for PostgreSQL's: tde pg install-bin",
        )
    if not places.used.is_dir():
        raise TdeError(
            f"there is no {places.used}",
            remedy=f"Install postgresql-{major}, or see pg_lsclusters for the version.",
        )


def _keep_stock(places: _Places) -> list[str]:
    """Give PostgreSQL's own programs, all of them, other names; return those to be diverted.

    What was interrupted once may be repeated after an upgrade of the package, which has put its
    program where dpkg thought that it belonged: there, and nowhere else, is the newest one.
    """
    places.stock.mkdir(parents=True, exist_ok=True)
    names = []
    for program in sorted(places.used.iterdir()):
        kept = places.stock / program.name
        if program.name.endswith(_NEW):
            program.unlink()  # Of an exchange that was interrupted.
        elif program.name in PROGRAMS_WITH_KEYS:
            names.append(program.name)
            is_newest = not (_is_diverted(program, kept) and os.path.lexists(kept))
            if is_newest and not places.has_stand_in(program):
                _give_name(program, kept)
        elif not os.path.lexists(kept):
            kept.symlink_to(Path("../bin") / program.name)
    return names


def _give_back(places: _Places, name: str) -> None:
    """Give a program its name back, unless that was done before this was interrupted."""
    stock, used = places.stock / name, places.used / name
    diverted = _is_diverted(used, stock)
    if (diverted or places.has_stand_in(used)) and os.path.lexists(stock):
        _give_name(stock, used)
    elif places.has_stand_in(used):
        used.unlink()  # The package is gone.
    if diverted:
        _divert("--remove", used)


def _give_name(program: Path, place: Path) -> None:
    """Give a program another name; a link, as Debian's postmaster, stays one that leads beside."""
    with _taking(place) as new:
        if program.is_symlink():
            new.symlink_to(program.readlink())
        else:
            new.hardlink_to(program)


@contextmanager
def _taking(place: Path) -> Iterator[Path]:
    """Let what is made under another name take a place by one rename."""
    new = place.with_name(place.name + _NEW)
    new.unlink(missing_ok=True)
    yield new
    new.replace(place)


def _divert(verb: str, path: Path, *more: str | Path) -> None:
    done = _dpkg_divert("--quiet", "--local", "--no-rename", *more, verb, path)
    if done.returncode != 0:
        raise TdeError(
            f"dpkg-divert did not take {path}: {done.stderr.strip()}",
            remedy="See who has diverted it: dpkg-divert --list",
        )


def _is_diverted(path: Path, to: Path) -> bool:
    """Tell whether dpkg puts a package's file elsewhere."""
    return _dpkg_divert("--truename", path).stdout.strip() == str(to)


def _dpkg_divert(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = ["dpkg-divert", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@contextmanager
def _no_packages_installed() -> Iterator[None]:
    """Keep dpkg from exchanging the programs meanwhile, as it keeps a second one of itself.

    A script of a package is run by it, and is all that happens then.
    """
    if "DPKG_MAINTSCRIPT_PACKAGE" in os.environ:
        yield
        return
    with _DPKG_LOCK.open("ab") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TdeError(
                "packages are being installed or removed, perhaps PostgreSQL's",
                remedy=f"Repeat the command when that is done: fuser -v {_DPKG_LOCK}",
            ) from error
        yield


def _settle_clusters(major: int, keystore_uuid: UUID) -> tuple[DebianCluster, ...]:
    """Adapt clusters that were registered by themselves; return those for which that ends.

    Raises:
        TdeError: it could not be done for one; all the others are adapted.
    """
    ended, failed = [], []
    for cluster in _clusters_of(major):
        try:
            if _settle(cluster, keystore_uuid):
                ended.append(cluster)
        except (OSError, TdeError) as error:
            # Its owner, or an accident, must not leave those of others without a server.
            failed.append(f"{cluster}: {error}")
    if failed:
        raise TdeError(
            f"PostgreSQL {major} is registered, but not all of its clusters: {'; '.join(failed)}",
            remedy="Mend what is said of each, then repeat the command.",
        )
    return tuple(ended)


def _settle(cluster: DebianCluster, keystore_uuid: UUID) -> bool:
    """Adapt a cluster, if it was registered by itself; tell whether that ends."""
    record = find_record(cluster)
    if registered_programs(cluster) is None or (record is not None and record.bindir is not None):
        return False  # Of the latter another PostgreSQL starts it, as before.
    marker = read_marker(cluster.data_directory)
    if marker is None:
        unregister_cluster(cluster)
        return False
    if marker.keystore_uuid == keystore_uuid:
        take_over_cluster(cluster)
        return True
    # Its stand-ins look for PostgreSQL's own where those are no more. New ones go where root
    # wanted them: the server's user, who may write pg_ctl.conf, chooses no place.
    register_again(record or default_record(cluster), cluster)
    return False
