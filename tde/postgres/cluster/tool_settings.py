"""What backup tools have to be told on encrypted clusters, and writing it into their configuration.

Their files are INI: sections in brackets, a setting a line.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from tde.errors import ConfigurationFileError
from tde.ownership import is_out_of_reach
from tde.postgres.server.file_user import files_as
from tde.postgres.server.os_user import OsUser, user_of_files
from tde.postgres.server.owned_files import sync_directory, temporary_name

_SECTION = re.compile(r"\[(?P<name>[^\]]+)\]\s*")
_SETTING = re.compile(r"(?P<name>[\w-]+)\s*=\s*(?P<value>.*?)\s*")


class BackupTool(str, Enum):
    """A tool that has to be told something."""

    PGBACKREST = "pgbackrest"
    BARMAN = "barman"


@dataclass(frozen=True)
class ToolSettings:
    """Settings for a tool.

    Attributes:
        section: where they stand in the tool's configuration.
        values: by name.
        reasons: why each is needed, by name.
    """

    section: str
    values: Mapping[str, str]
    reasons: Mapping[str, str]

    def lines(self) -> list[str]:
        """Return the lines of a configuration file, without comments, which not all tools take."""
        return [f"[{self.section}]", *(f"{name}={value}" for name, value in self.values.items())]


def tool_settings(
    tool: BackupTool, bin_directory: Path | None, section: str | None = None
) -> ToolSettings:
    """Return what a tool has to be told.

    Args:
        bin_directory: a directory of ``tde pg install-bin``, which Barman needs.
        section: where; by default that of all servers.

    Raises:
        ConfigurationFileError: Barman's directory was not named.
    """
    if tool is BackupTool.PGBACKREST:
        return ToolSettings(
            section or "global",
            {"archive-header-check": "n", "checksum-page": "n"},
            {
                "archive-header-check": "archive-push would refuse WAL that is ciphertext",
                "checksum-page": "backups would warn of every page, before 2.57 even crash; "
                "tde pg audit verifies pages",
            },
        )
    if bin_directory is None:
        raise ConfigurationFileError(
            "Barman needs a directory of programs, and none was named",
            remedy="Name it: tde pg install-bin DIR --keystore KEYSTORE --for barman",
        )
    return ToolSettings(
        section or "barman",
        {"path_prefix": str(bin_directory), "compression": "gzip"},
        {
            "path_prefix": "pg_receivewal and pg_basebackup have to encrypt the WAL that they get",
            "compression": "without it, Barman before 3.19 takes some segments for those of GPG",
        },
    )


def require_addable(file: Path | None, settings: ToolSettings) -> None:
    """Require that a tool's configuration, if one is named, says nothing else.

    Raises:
        ConfigurationFileError: the section says otherwise, or the file cannot be read.
    """
    if file is not None:
        real = file.resolve()
        with files_as(_who_may_exchange(file, real)):
            _missing(_read(real), file, settings)


def add_settings(file: Path, settings: ToolSettings) -> list[str]:
    """Add what is missing of the settings to a tool's configuration, whose other lines stay.

    Returns:
        The lines that were added; none when all were there.

    Raises:
        ConfigurationFileError: the section says otherwise, or the file cannot be written.
    """
    real = file.resolve()
    with files_as(_who_may_exchange(file, real)):
        old = _read(real)
        missing = _missing(old, file, settings)
        if missing:
            try:
                _replace(real, _with_lines(old, settings.section, missing))
            except OSError as error:
                raise _unusable(file, error) from error
    return missing


def _who_may_exchange(file: Path, real: Path) -> OsUser | None:
    """Return with whose rights root reads and writes a file: in a directory of another, his.

    He could exchange the file for a link, and have root change another, or make a copy for him.

    Raises:
        ConfigurationFileError: it is not clear whose these would be.
    """
    places = [path for path in (file.absolute().parent, real.parent) if path.exists()]
    if os.geteuid() != 0 or all(map(is_out_of_reach, places)):
        return None
    for place in places:
        if (owner := user_of_files(place)) is not None:
            return owner
    raise ConfigurationFileError(
        f"{file} is not changed by root: others than root control a part of its path",
        remedy="Run this as the user whose file it is, or write the lines yourself.",
    )


def _read(file: Path) -> str:
    try:
        return file.read_text(errors="surrogateescape")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise _unusable(file, error) from error


def _unusable(file: Path, error: OSError) -> ConfigurationFileError:
    return ConfigurationFileError(
        f"{file} cannot be read or changed: {error.strerror}",
        remedy="Run this as its owner, or as root; its directory must exist.",
    )


def _missing(text: str, file: Path, settings: ToolSettings) -> list[str]:
    """Return the lines that the section lacks.

    Raises:
        ConfigurationFileError: a setting has another value there.
    """
    found = set()
    section = ""
    for number, line in enumerate(text.splitlines(), 1):
        if match := _SECTION.fullmatch(line):
            section = match["name"]
        elif section == settings.section and (match := _SETTING.fullmatch(line)):
            name, value = match["name"], match["value"]
            wanted = settings.values.get(name, value)
            if value != wanted:
                raise ConfigurationFileError(
                    f"{file}, line {number}, in [{section}]: {name}={value}, where an encrypted "
                    f"cluster needs {name}={wanted}: {settings.reasons[name]}",
                    remedy="Change that line yourself, or name the section of this cluster alone "
                    "with --section; nothing was written.",
                )
            found.add(name)
    return [f"{name}={value}" for name, value in settings.values.items() if name not in found]


def _with_lines(text: str, section: str, added: list[str]) -> str:
    """Return a text with lines at the end of a section, which is made if there is none."""
    lines = text.splitlines()
    headers = [n for n, line in enumerate(lines) if _SECTION.fullmatch(line)]
    at = next((n for n in headers if lines[n].strip() == f"[{section}]"), None)
    if at is None:
        gap = [""] if lines and lines[-1] else []
        return "\n".join([*lines, *gap, f"[{section}]", *added, ""])
    end = next((n for n in headers if n > at), len(lines))
    while end > at + 1 and not lines[end - 1].strip():
        end -= 1
    return "\n".join([*lines[:end], *added, *lines[end:], ""])


def _replace(path: Path, text: str) -> None:
    """Write a file at once; one that was there gives its owner and mode to the new one."""
    temporary = path.with_name(temporary_name(path.name))
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    status = path.stat() if path.exists() else None
    try:
        descriptor = os.open(temporary, flags, 0o600 if status else 0o644)
        with os.fdopen(descriptor, "w", errors="surrogateescape") as file:
            if status is not None:
                # With another's rights it becomes his, who could have replaced it anyway.
                with suppress(PermissionError):
                    os.fchown(descriptor, status.st_uid, status.st_gid)
                os.fchmod(descriptor, status.st_mode & 0o7777)
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        temporary.rename(path)
    except BaseException:
        with suppress(FileNotFoundError):
            temporary.unlink()
        raise
    sync_directory(path.parent)
