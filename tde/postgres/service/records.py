"""What was registered, written down: for whom programs were made, and what had been asked for.

`tde pg register` makes directories of programs, and a cluster may be dropped, or be started by the
programs of its whole version for a while. What to do with a directory then, and what to register
again, is known from here alone and never from what lies somewhere. One file for each cluster, which
is exchanged by a rename, so that nobody has to wait for anybody.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from tde.errors import TdeError
from tde.postgres.server.config_files import CONFIGURATION_FILE
from tde.postgres.server.debian_layout import DebianCluster
from tde.postgres.server.owned_files import sync_directory
from tde.postgres.server.reachable import replace_readable_file
from tde.postgres.service.places import place_of_records

_FORMAT = "tde-registered"
_VERSION = 1


@dataclass(frozen=True)
class Record:
    """A cluster that was registered by itself.

    Attributes:
        cluster: whose it is.
        programs: its directory of stand-ins.
        keystore_uuid: the keystore that has its keys.
        keystore: that was named; ``None`` stands for the one that the cluster remembers.
        bindir: that was named; ``None`` stands for the programs of postgresql-common.
        mounts: where the file systems are mounted that have its configuration and its data.
        is_waiting: to be registered again when the programs of its version are PostgreSQL's own;
            until then those start it that stand for the whole version.
    """

    cluster: DebianCluster
    programs: Path
    keystore_uuid: UUID
    keystore: Path | None
    bindir: Path | None
    mounts: tuple[Path, ...]
    is_waiting: bool = False

    @property
    def is_gone(self) -> bool:
        """Whether the cluster was dropped: neither configuration nor data of it are there.

        They may only be out of sight, where a file system is not mounted that was.
        """
        return (
            all(map(os.path.ismount, self.mounts))
            and _is_absent(self.cluster.directory / CONFIGURATION_FILE)
            and _is_absent(self.cluster.data_directory / "PG_VERSION")
        )

    def write(self) -> None:
        """Write it down, in place of what was known of this cluster.

        Raises:
            OSError: it cannot be written.
        """
        replace_readable_file(_file(self.cluster.directory), self._text().encode())

    def _text(self) -> str:
        document = {
            "format": _FORMAT,
            "version": _VERSION,
            "major": self.cluster.major,
            "name": self.cluster.name,
            "configuration": str(self.cluster.directory),
            "data_directory": str(self.cluster.data_directory),
            "programs": str(self.programs),
            "keystore_uuid": self.keystore_uuid.hex,
            "keystore": self.keystore and str(self.keystore),
            "bindir": self.bindir and str(self.bindir),
            "mounts": list(map(str, self.mounts)),
            "waiting": self.is_waiting,
        }
        return json.dumps(document, indent=2) + "\n"


def mounts_of(cluster: DebianCluster) -> tuple[Path, ...]:
    """Return where the file systems are mounted that have the files of a cluster."""
    return tuple(sorted({_mount(cluster.directory), _mount(cluster.data_directory)}))


def find_record(cluster: DebianCluster) -> Record | None:
    """Return what is written down of a cluster, if anything is.

    Raises:
        TdeError: it cannot be understood, or somebody else may have written it.
    """
    try:
        return _read(_file(cluster.directory))
    except FileNotFoundError:
        return None


def all_records() -> list[Record]:
    """Return what is written down of all clusters.

    Raises:
        TdeError: a record cannot be understood, or somebody else may have written it.
    """
    return [_read(file) for file in sorted(place_of_records().glob("*.json"))]


def forget(cluster: DebianCluster) -> None:
    """Remove what is written down of a cluster.

    Raises:
        OSError: it cannot be removed.
    """
    file = _file(cluster.directory)
    if not file.exists():
        return
    file.unlink()
    sync_directory(file.parent)


def _file(configuration: Path) -> Path:
    digest = hashlib.sha256(os.fsencode(configuration)).hexdigest()
    return place_of_records() / f"{digest[:32]}.json"


def _read(file: Path) -> Record:
    status = file.lstat()
    others = stat.S_IWGRP | stat.S_IWOTH
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & others:
        raise TdeError(
            f"{file} says what was registered, and others may have written it",
            remedy="Look at it. Make it your own, writable by nobody else; or remove it, and "
            "register that cluster again.",
        )
    try:
        found = json.loads(file.read_text())
        if (found["format"], found["version"]) != (_FORMAT, _VERSION):
            raise ValueError(found["version"])
        cluster = DebianCluster(
            int(found["major"]),
            str(found["name"]),
            Path(found["configuration"]),
            Path(found["data_directory"]),
        )
        return Record(
            cluster,
            Path(found["programs"]),
            UUID(found["keystore_uuid"]),
            found["keystore"] and Path(found["keystore"]),
            found["bindir"] and Path(found["bindir"]),
            tuple(map(Path, found["mounts"])),
            bool(found["waiting"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise TdeError(
            f"{file}, which says what was registered, is damaged or of a later release of tde",
            remedy="Remove it, and register that cluster again.",
        ) from error


def _mount(path: Path) -> Path:
    return next(place for place in (path, *path.parents) if os.path.ismount(place))


def _is_absent(path: Path) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False
