"""The lines of configuration files that run a program or load a library.

Read as PostgreSQL reads them (guc-file.l): tokens, quotes, comments and the three kinds of include.
All lines count, not only the last of each setting: what is named too often costs a look, and a
difference to the server in which one wins would cost more. The running server is not asked: what
counts is what the next reload or start will read, and status needs no connection.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tde.postgres.server.arguments import UNKNOWN, given_settings, options_in
from tde.postgres.server.cluster_files import read_configuration
from tde.postgres.server.file_user import files_as
from tde.postgres.server.host_lines import command_lines, names_in
from tde.postgres.server.interposer import GUARD_FILE
from tde.postgres.server.os_user import user_of_files
from tde.printable import printable

CONFIGURATION_FILE = "postgresql.conf"
# What ALTER SYSTEM writes. Every server reads it after the file it begins with.
AUTOMATIC_FILE = "postgresql.auto.conf"

_HOSTS_FILE = "pg_hosts.conf"
_HOSTS_SETTING = "hosts_file"
_INCLUDES = frozenset({"include", "include_if_exists", "include_dir"})
_SETTINGS = frozenset(
    {
        *("archive_command", "restore_command", "recovery_end_command"),
        *("archive_cleanup_command", "ssl_passphrase_command", _HOSTS_SETTING),
        *("shared_preload_libraries", "session_preload_libraries", "local_preload_libraries"),
        *("archive_library", "oauth_validator_libraries", "jit_provider"),
        *("dynamic_library_path", "extension_control_path"),
        *("plperl.on_init", "plperl.on_plperl_init", "plperl.on_plperlu_init"),
        *("pljava.libjvm_location", "pljava.vmoptions", "pltcl.start_proc", "pltclu.start_proc"),
    }
)
# Settings of modules that nobody here knows, by the words that PostgreSQL's own end with.
_OF_MODULES = re.compile(r"[^.]+\..*(?:command|program|library|libraries)")
# libpq loads an OpenSSL engine where this key has a colon, and that is a library.
_ENGINE = re.compile(rb"sslkey.*(?::|%3a)", re.IGNORECASE | re.DOTALL)

_LETTER = rb"[A-Za-z_\x80-\xff]"
_WORD = rb"[A-Za-z_0-9\x80-\xff]"
_LINE = re.compile(
    rb"[ \t\r]*(?P<name>" + _LETTER + _WORD + rb"*(?:\." + _LETTER + _WORD + rb"*)?)(?!" + _WORD
    + rb")[ \t\r]*=?[ \t\r]*(?:'(?P<quoted>(?:[^'\\\n]|\\.|'')*)'|(?P<bare>[^\s'#=]+))"
)  # fmt: skip
_ESCAPE = re.compile(rb"''|\\([0-7]{1,3}|.)", re.DOTALL)
_CONTROLS = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t"}
_DEEPEST = 10  # CONF_FILE_MAX_DEPTH of PostgreSQL, which reads nothing when there are more.
_SHOWN = 60  # Characters of a value, or of a name.
_PATH_SHOWN = 300
COMMAND_LINE = "postmaster.opts"
DATA_DIRECTORY = "data_directory"


@dataclass(frozen=True)
class ProgramLine:
    """A line that runs a program, loads a library, or takes lines from another file.

    Attributes:
        name: the setting, in lower case, or the kind of include.
        value: without quotes, as it is stored.
        line: its number; 0 for an argument on the command line.
    """

    name: str
    value: bytes
    file: Path
    line: int

    @property
    def place(self) -> str:
        """The file and the number, as ``file:line``."""
        file = printable(str(self.file), _PATH_SHOWN)
        return f"{file}:{self.line}" if self.line else f"command line ({file})"

    @property
    def shown(self) -> str:
        """The value for people: shortened, and without bytes that steer a terminal or a log."""
        return printable(self.value[: 4 * _SHOWN].decode(errors="backslashreplace"), _SHOWN)

    def __str__(self) -> str:
        return f"{self.place}: {printable(self.name, _SHOWN)} = '{self.shown}'"


def program_lines(
    files: Iterable[Path], data_directory: Path, arguments: Sequence[str]
) -> tuple[ProgramLine, ...]:
    """Return the lines of configuration files, and the arguments, that matter.

    Args:
        files: with which a server may begin; those that they include are found.
        arguments: of the server.

    Raises:
        OSError: a configuration file is there and cannot be read.
        OsUserError: root cannot take the rights of the server's user.
    """
    with files_as(user_of_files(data_directory)):
        lines = tuple(_setting_lines(files, data_directory, arguments))
        return (*lines, *_host_lines(lines, data_directory))


def _setting_lines(
    files: Iterable[Path], data_directory: Path, arguments: Sequence[str]
) -> Iterator[ProgramLine]:
    seen: set[str] = set()
    elsewhere: list[Path] = []
    given = [ProgramLine(*setting, data_directory / COMMAND_LINE, 0) for setting in
             given_settings(arguments)]  # fmt: skip
    for line in (*(line for file in files for line in _lines_of(file, seen)), *given):
        if line.name == DATA_DIRECTORY:
            if _is_of(line.value, data_directory):
                continue
            elsewhere.append(Path(name_of(line.value)))
        elif not _matters(line.name, line.value):
            continue
        yield line
    # A server of another directory begins with the files there.
    for directory in elsewhere:
        for file in (directory / CONFIGURATION_FILE, directory / AUTOMATIC_FILE):
            yield from (line for line in _lines_of(file, seen, 1) if line.name != DATA_DIRECTORY)
    for letter, text in options_in(arguments):
        if letter == UNKNOWN:
            yield ProgramLine("argument", os.fsencode(text), data_directory / COMMAND_LINE, 0)


def _host_lines(settings: Iterable[ProgramLine], data_directory: Path) -> Iterator[ProgramLine]:
    """Yield the lines that run commands in pg_hosts.conf, or where settings say that it is."""
    waiting = [(data_directory / _HOSTS_FILE, 0)]
    for line in settings:
        if line.name == _HOSTS_SETTING:
            waiting.append((data_directory / name_of(line.value), 0))
        elif line.name == DATA_DIRECTORY:
            waiting.append((Path(name_of(line.value)) / _HOSTS_FILE, 0))
    seen: set[str] = set()
    for file, depth in waiting:
        if depth > _DEEPEST or os.path.realpath(file) in seen:
            continue
        seen.add(os.path.realpath(file))
        for number, text in command_lines(_content(file, required=False), taken_in=depth > 0):
            yield ProgramLine(_HOSTS_FILE, text, file, number)
            for name in names_in(text):
                target = file.parent / name_of(name)
                waiting += [(each, depth + 1) for each in (target, *_directory(target))]


def _is_of(value: bytes, data_directory: Path) -> bool:
    """Tell whether the value of data_directory is this directory, wherever a server is started."""
    named = Path(name_of(value))
    # Not resolve(), which raises on links that lead to each other.
    return named.is_absolute() and os.path.realpath(named) == os.path.realpath(data_directory)


def _lines_of(file: Path, seen: set[str], depth: int = 0) -> Iterator[ProgramLine]:
    """Yield the lines of a file and of those that it includes, each file once."""
    try:
        real = os.path.realpath(file)
    except ValueError:
        return  # There is a zero byte in the name.
    if real in seen or depth > _DEEPEST:
        return
    seen.add(real)
    for number, name, value in settings_in(_content(file, required=depth == 0)):
        if name != DATA_DIRECTORY and not _matters(name, value):
            continue
        # As AbsoluteConfigLocation: relative to the file that has the line.
        target = file.parent / name_of(value)
        if not (name == "include_dir" and _is_beside(file, target)):
            yield ProgramLine(name, value, file, number)
        if name in _INCLUDES:
            for included in _directory(target) if name == "include_dir" else [target]:
                yield from _lines_of(included, seen, depth + 1)


def _is_beside(file: Path, target: Path) -> bool:
    """Tell whether a directory lies in that of a file, as Debian's ``conf.d`` does.

    Who may put files into it may as well write to the file, so its lines say all that there is.
    """
    # Not Path.is_dir(), which raises on names that no file can have.
    is_directory = os.path.isdir(target) and not os.path.islink(target)  # noqa: PTH112, PTH114
    return target.parent == file.parent and is_directory


def settings_in(content: bytes) -> Iterator[tuple[int, str, bytes]]:
    """Yield the settings of a file: the number of the line, the name in lower case, the value."""
    for number, text in enumerate(content.split(b"\n"), 1):
        match = _LINE.match(text)
        if match is None:
            continue  # A comment, or an error with which the server reads nothing of it.
        quoted = match["quoted"]
        value = match["bare"] if quoted is None else _ESCAPE.sub(_unescaped, quoted)
        yield number, match["name"].decode("latin-1").lower(), value


def _content(file: Path, *, required: bool) -> bytes:
    """Return what is in a file; nothing when there is none, or when it is no ordinary file.

    PostgreSQL passes over what it cannot read if the line is include_if_exists, and does not start
    otherwise. The include itself is named in any case.
    """
    try:
        return read_configuration(file)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return b""
    except OSError as error:
        # No ordinary file: it must not hide the lines of the others.
        if required and error.errno != errno.EINVAL:
            raise
        return b""


def name_of(value: bytes) -> str:
    """Return a name as the server sees it, whose strings end at a zero byte."""
    return os.fsdecode(value.partition(b"\0")[0])


def _directory(path: Path) -> list[Path]:
    """Return the files that include_dir takes from a directory."""
    try:
        found = sorted(path.iterdir())
    except (OSError, ValueError):
        return []
    return [file for file in found if file.name.endswith(".conf") and file.name[0] != "."]


def _matters(name: str, value: bytes) -> bool:
    if name in _INCLUDES:
        return value != GUARD_FILE.encode()
    if name == "primary_conninfo":
        return _ENGINE.search(value) is not None
    return bool(value) and (name in _SETTINGS or _OF_MODULES.fullmatch(name) is not None)


def _unescaped(match: re.Match[bytes]) -> bytes:
    """Return what an escape in quotes stands for (GUC_scanstr)."""
    escaped: bytes | None = match[1]
    if escaped is None:
        return b"'"
    if escaped[:1].isdigit() and escaped[:1] < b"8":
        return bytes([int(escaped, 8) & 0xFF])
    return _CONTROLS.get(escaped, escaped)
