"""Checks of a cluster's keystore: who may read it, where it lies, how it opens."""

from __future__ import annotations

import grp
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tde.doctor.examined import Examined
from tde.errors import (
    ClusterKeystoreError,
    KeystoreError,
    KeystoreMissingError,
    KeystorePermissionError,
    PostgresError,
    TdeError,
)
from tde.machine.storage import file_storage
from tde.machine.verdict import Outcome, ok, problem, unknown, warning
from tde.postgres.cluster.keystore_place import require_keystore_access, require_separate

if TYPE_CHECKING:
    from tde.keystore.auto_opening import Way


def check_keystore(examined: Examined) -> Iterator[Outcome]:
    """Tell who may read the keystore, whether it is complete, and whether it travels with data."""
    if examined.keystore is None and examined.is_encrypted:
        yield unknown("nobody knows where it is without tde.json", "Name it with --keystore.")
        return
    if examined.keystore is None:
        yield ok("a cluster without encryption needs none")
        return
    directory = examined.keystore
    outcomes = [*_open_to_others(directory), *_location(examined, directory)]
    if not outcomes:
        outcomes = list(_usable(examined, directory))
    yield from outcomes or [ok(f"{directory}: {_who_may_read(directory)}")]


def check_auto_open(examined: Examined) -> Iterator[Outcome]:
    """Tell whether the keystore opens without a passphrase, and from where."""
    from tde.keystore.auto_opening import ways_to_open
    from tde.keystore.providers.auto_open import auto_open_path, can_open_automatically

    if examined.keystore is None:
        yield ok("off: there is no keystore")
        return
    try:
        ways = ways_to_open(examined.keystore, trying=True, logged=False)
    except KeystoreError:
        ways = []  # What is wrong with the keystore is told by its own check.
    for way in ways:
        # A credential of systemd is there at a start only.
        if way.problem and way.type != "credential":
            yield _does_not_open(examined, way)
    if any(way.problem and not way.name for way in ways):
        return  # Where auto-open.key is there nothing else is tried.
    ways = [way for way in ways if way.name]
    for way in ways:
        if way.problem:
            continue
        if way.shares_disk and not file_storage(examined.machine, examined.keystore).encrypted:
            yield warning(
                f"on, {way.in_words}, which is on the same file system as the keystore: whoever "
                "has the disk, or a backup of both, has the keys",
                "Move the host secret to another disk, or bind the keystore to the TPM: tde "
                "keystore auto-open disable, then enable --bind.",
            )
        else:
            yield ok(f"on, {way.in_words}")
    if not can_open_automatically(examined.keystore):
        if not ways:
            yield ok("off: the keystore opens only with its passphrase")
        return
    path = auto_open_path(examined.keystore)
    storage = file_storage(examined.machine, path.resolve())
    if storage.encrypted:
        yield ok(f"on, and {path} is on an encrypted disk ({storage.why})")
    else:
        yield warning(
            f"on, bound to nothing, and {path} is not on a disk that is known to be encrypted: "
            "whoever has the disk or a backup of the keystore has the keys",
            "Bind it: tde keystore auto-open enable --bind tpm2 (or host-secret:FILE) --keystore "
            f"{examined.keystore}. Or turn it off (tde keystore auto-open disable); or keep the "
            "keystore on an encrypted disk, and this file out of backups.",
        )


def _does_not_open(examined: Examined, way: Way) -> Outcome:
    """Tell of a way that fails now: a server that runs has its keys, and its next start has not."""
    goes_on = "" if examined.pid is None else "; the server goes on until its next start"
    return problem(
        f"it does not open by what is {way.in_words}: {way.problem}{goes_on}",
        way.remedy or "See tde keystore auto-open status.",
    )


def check_key_ages(examined: Examined) -> Iterator[Outcome]:
    """Tell which keys are older than their limit, or will be soon."""
    from tde.keystore import AgeVerdict
    from tde.postgres.cluster.key_uses import key_ages

    if examined.keystore is None or examined.marker is None:
        yield ok("a cluster without encryption has no keys")
        return
    try:
        findings = key_ages(examined.data_directory, examined.keystore)
    except (TdeError, OSError) as error:
        yield unknown(f"the keys could not be looked at: {error}", "See the line Keystore.")
        return
    limited = [finding for finding in findings if finding.max_age is not None]
    for finding in findings:
        if finding.verdict is AgeVerdict.UNKNOWN:
            yield unknown(finding.detail, finding.remedy)
        elif finding.needs_attention:
            yield warning(finding.detail, finding.remedy)
    if not limited:
        yield ok("no key has an age limit (tde keystore max-age)")
    elif not any(finding.needs_attention for finding in limited):
        yield ok(f"{len(limited)} keys are within their limits")


def _who_may_read(directory: Path) -> str:
    status = directory.stat()
    if not status.st_mode & stat.S_IRGRP:
        return "only its owner may read it"
    try:
        group = grp.getgrgid(status.st_gid).gr_name
    except KeyError:
        group = str(status.st_gid)
    return f"read-only, and only root and group {group} may read it"


def _open_to_others(directory: Path) -> Iterator[Outcome]:
    """Look at every file, so that one remedy repairs all of them."""
    from tde.keystore.store.files import DIRECTORY_MODE, FILE_MODE, check_mode

    found = []
    for path in _tree(directory):
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            continue
        wanted = DIRECTORY_MODE if stat.S_ISDIR(status.st_mode) else FILE_MODE
        try:
            check_mode(path, status, wanted)
        except KeystorePermissionError as error:
            found.append(str(error))
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        yield problem(found[0] + more, f"chmod -R go= {directory}")


def _tree(directory: Path) -> Iterator[Path]:
    """Yield a directory and everything below it; one that may not be listed is an error."""

    def refuse(error: OSError) -> None:
        raise error

    if not os.path.lexists(directory):
        return
    yield directory
    for parent, directories, files in os.walk(directory, onerror=refuse):
        yield from (Path(parent) / name for name in sorted([*directories, *files]))


def _location(examined: Examined, directory: Path) -> Iterator[Outcome]:
    """Look for the keystore in every directory that a base backup copies."""
    links = (examined.data_directory / "pg_tblspc").iterdir()
    for place in (examined.data_directory, *links, examined.data_directory / "pg_wal"):
        try:
            require_separate(place, directory)
        except ClusterKeystoreError as error:
            yield problem(
                f"{error}, so backups of the data carry the keys",
                f"tde pg stop, move the keystore (mv {directory} <elsewhere>), and "
                "tde pg start --keystore <elsewhere>.",
            )
            return


def _usable(examined: Examined, directory: Path) -> Iterator[Outcome]:
    from tde.keystore import inspect_keystore
    from tde.keystore.store.remedies import find_keystore

    try:
        status = inspect_keystore(directory)
        if examined.marker is not None and status.uuid != examined.marker.keystore_uuid:
            yield problem(
                f"{directory} is another cluster's keystore, {status.uuid.hex}",
                "Name this cluster's keystore with --keystore.",
            )
        require_keystore_access(directory, examined.os_user)
        if status.rotation_unfinished:
            yield warning(
                f"a rotation of the master key of {directory} runs, or was interrupted",
                f"Finish it: tde keystore rotate --keystore {directory}",
            )
    except KeystoreMissingError as error:
        yield problem(str(error), find_keystore(directory))
    except (KeystoreError, PostgresError) as error:
        yield problem(str(error), error.remedy)
