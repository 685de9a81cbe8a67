"""What a pgBackRest that is named in archive_command has been told.

In the order of pgBackRest: its arguments, its variables, then the sections of its files from the
narrowest to the widest.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from tde.postgres.server.cluster_files import read_configuration

_PROGRAM = "pgbackrest"
_OPERATOR = re.compile(r"[;|&<>()]+")
_FILES = (Path("/etc/pgbackrest/pgbackrest.conf"), Path("/etc/pgbackrest.conf"))
_INCLUDED = Path("/etc/pgbackrest/conf.d")
_NO_VALUES = ("-", "archive-", "%")  # What may follow an option without one.
_PUSH = "archive-push"
_FALSE = ("n", "no", "false", "0", "off")


@dataclass(frozen=True)
class BackRestCall:
    """The words of a call of pgBackRest, and the variables in front of it."""

    words: tuple[str, ...]
    variables: tuple[tuple[str, str], ...] = ()
    program: str = _PROGRAM

    def option(self, name: str) -> str | None:
        """Return an option that is among the words; ``None`` when it is not."""
        for n, word in enumerate(self.words):
            if word == f"--no-{name}":
                return "n"
            if word == f"--{name}":
                follows = self.words[n + 1] if n + 1 < len(self.words) else ""
                return "y" if not follows or follows.startswith(_NO_VALUES) else follows
            if word.startswith(f"--{name}="):
                return word.partition("=")[2]
        return None

    def variable(self, name: str) -> str | None:
        """Return an option that a variable in front of the call sets."""
        return dict(self.variables).get(_variable(name))

    @property
    def environment(self) -> dict[str, str]:
        """The variables that tell another command of pgBackRest what this one is told.

        It takes from variables what a command has, and passes over the rest.
        """
        found = dict(self.variables)
        for word in self.words:
            name = word.removeprefix("--").partition("=")[0]
            if not word.startswith("--") or not name:
                continue
            if name.startswith("no-"):
                found[_variable(name.removeprefix("no-"))] = "n"
            else:
                found[_variable(name)] = self.option(name) or ""
        return found

    @property
    def files(self) -> list[Path]:
        """The configuration files that it reads, if they are there."""
        named = self.option("config") or self.variable("config")
        if named == "n":
            return []
        directory = self.option("config-path") or self.variable("config-path")
        if named:
            first = [Path(named)]
        elif directory:
            first = [Path(directory) / _FILES[0].name]
        else:
            first = [next((path for path in _FILES if path.exists()), _FILES[0])]
        included = _INCLUDED if directory is None else Path(directory) / "conf.d"
        own = self.option("config-include-path") or self.variable("config-include-path")
        # With a file of its own it reads no others, unless their directory is named too.
        if named and own is None:
            return first
        included = Path(own or included)
        return [*first, *sorted(included.glob("*.conf"))]


def find_call(command: str) -> BackRestCall | None:
    """Return the call of pgBackRest in a line for the shell, or ``None``."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    try:
        words = list(lexer)
    except ValueError:  # An open quote, of which the shell will say more.
        words = command.split()
    found = None
    for n, word in enumerate(words):
        if Path(word).name == _PROGRAM:
            rest = []
            for argument in words[n + 1 :]:
                if _OPERATOR.fullmatch(argument):
                    break
                rest.append(argument)
            variables = [w.partition("=") for w in words[:n] if w.startswith("PGBACKREST_")]
            call = BackRestCall(tuple(rest), tuple((k, v) for k, _, v in variables), word)
            # A directory may have that name too, as in `cd /var/lib/pgbackrest && pgbackrest ...`.
            if found is None or _PUSH in rest or _PUSH not in found.words:
                found = call
    return found


def call_of_server(command: str, pid: int | None) -> BackRestCall | None:
    """Return the call in the archive_command of a server, with the variables of that server.

    The server's variables count for it, and those of who types a command now may be others.
    """
    call = find_call(command)
    if call is None:
        return None
    return replace(call, variables=(*_variables_of(pid), *call.variables))


def _variables_of(pid: int | None) -> tuple[tuple[str, str], ...]:
    """Return the variables for pgBackRest that a server has, where they can be read."""
    try:
        content = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return ()
    pairs = (part.decode(errors="surrogateescape").partition("=") for part in content.split(b"\0"))
    return tuple((name, value) for name, _, value in pairs if name.startswith("PGBACKREST_"))


def _variable(name: str) -> str:
    return f"PGBACKREST_{name.replace('-', '_').upper()}"


def is_off(call: BackRestCall, name: str, command: str) -> bool:
    """Tell whether an option is turned off for one of pgBackRest's commands.

    Raises:
        OSError: a configuration file is there and may not be read.
    """
    for value in (call.option(name), call.variable(name)):
        if value is not None:
            return value.lower() in _FALSE
    stanza = call.option("stanza") or call.variable("stanza") or ""
    found: dict[str, str] = {}
    for path in call.files:
        if path.exists():
            found |= _values(path, name)
    sections = [f"{stanza}:{command}", stanza, f"global:{command}", "global"]
    value = next((found[section] for section in sections if section in found), "y")
    return value.lower() in _FALSE


def _values(path: Path, name: str) -> dict[str, str]:
    """Return what a file says of a setting, by section."""
    found = {}
    section = ""
    for line in read_configuration(path).decode(errors="surrogateescape").splitlines():
        text = line.strip()
        if text.startswith("[") and text.endswith("]"):
            section = text[1:-1]
        elif text.partition("=")[0].strip() == name:
            found[section] = text.partition("=")[2].strip()
    return found
