"""Directories of Barman, and backups in tar format, which Barman has too.

A server's directory has ``base/<backup>/data``, with tablespaces beside ``data``, and archives of
WAL: ``wals`` with compressed segments under their usual names, and what is on its way there.
"""

from __future__ import annotations

import re
from pathlib import Path

from tde.audit.findings import not_judged_finding
from tde.audit.report import Finding
from tde.audit.tar import TarArchive
from tde.audit.unpacking import ENDINGS, Compression

_TAR = re.compile(rf"(base|pg_wal|[1-9]\d*)\.tar(?:\.({ENDINGS}))?")
_ARCHIVES = ("wals", "streaming", "incoming", "errors")
_OF_SERVER = (*_ARCHIVES, "base", "meta", "identity.json")
_OF_BACKUP = ("data", "backup.info", "annotations")
_PREFIXES = {"base": "", "pg_wal": "pg_wal/"}


def is_server(directory: Path) -> bool:
    """Tell whether a directory is that of a server below Barman's home."""
    return (directory / "base").is_dir() and (directory / "wals").is_dir()


def backups_of(server: Path) -> list[Path]:
    """Return the directories of a server's backups, oldest first."""
    return sorted(path for path in (server / "base").iterdir() if path.is_dir())


def archives_of(server: Path) -> list[Path]:
    """Return the directories where a server's WAL is."""
    return [server / name for name in _ARCHIVES if (server / name).is_dir()]


def data_of(backup: Path) -> Path | None:
    """Return the data directory of a backup of Barman; ``None`` when it is something else."""
    return backup / "data" if (backup / "data").is_dir() else None


def tablespaces_of(backup: Path) -> tuple[tuple[int, Path], ...]:
    """Return the tablespaces of a backup of Barman, which are beside its data directory."""
    names = (path for path in backup.iterdir() if path.name.isascii() and path.name.isdigit())
    return tuple(sorted((int(path.name), path) for path in names if path.is_dir()))


def tars_of(directory: Path) -> tuple[TarArchive, ...]:
    """Return the archives of a backup in tar format; none when there is no ``base.tar``."""
    found = []
    for path in sorted(directory.iterdir()):
        if match := _TAR.fullmatch(path.name):
            prefix = _PREFIXES.get(match[1], f"pg_tblspc/{match[1]}/")
            found.append(TarArchive(path, Compression(match[2] or ""), prefix))
    return tuple(found) if any(tar.prefix == "" for tar in found) else ()


def strays_of(server: Path) -> tuple[list[Finding], list[Finding]]:
    """Return what lies between the backups of a server, and what beside them and its WAL."""
    between = [path for path in (server / "base").iterdir() if not path.is_dir()]
    for backup in backups_of(server):
        known = {backup / name for name in _OF_BACKUP}
        known |= {directory for _, directory in tablespaces_of(backup)}
        if data_of(backup) is not None:
            between += [path for path in backup.iterdir() if path not in known]
    beside = [path for path in server.iterdir() if path.name not in _OF_SERVER]
    return _strays(between), _strays(beside)


def _strays(paths: list[Path]) -> list[Finding]:
    return [
        not_judged_finding(
            path,
            "is not one of Barman's, and was not judged",
            "Look at what it is, and move it out of Barman's directory.",
        )
        for path in sorted(paths)
    ]
