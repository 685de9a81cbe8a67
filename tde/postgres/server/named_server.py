"""The server that a client program is told to connect to, as the program would find it.

A program of `tde pg exec -D DIR` is meant for the server of that directory, whose socket may lie
where no client looks for it by itself. So the client is told, unless somebody has named another.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

# Letters of the options that take a value, without which "-Xh" and "-dhost" cannot be told apart.
_CLIENTS = {
    "clusterdb": "dhptU",
    "createdb": "DEhlOpSTU",
    "createuser": "aghmpUv",
    "dropdb": "hpU",
    "dropuser": "hpU",
    "pg_amcheck": "dDhiIjprRsStTU",
    "pg_basebackup": "cdDFhilprsStTUXZ",
    "pg_dump": "deEfFhjnNpStTUZ",
    "pg_dumpall": "dEfhlpSU",
    "pg_isready": "dhptU",
    "pg_receivewal": "dDEhpsSUZ",
    "pg_recvlogical": "dEfFhIopPsSU",
    "pg_restore": "dfFhIjLnNpPStTU",
    "pgbench": "bcDfFhIjLMpPRstTU",
    "psql": "cdfFhLopPRTUv",
    "reindexdb": "dhijpStU",
    "vacuumdb": "dhjnNpPtU",
    "vacuumlo": "hlpU",
}
_VARIABLES = ("PGHOST", "PGHOSTADDR", "PGPORT", "PGSERVICE")
_NAMING = ("host", "port")
_ASSIGNING = ("-v", "--set", "--variable")  # Of psql: name=value, which is no connection string.
_URI = re.compile(r"postgres(ql)?://")
_CONNECTION_STRING = re.compile(r"\s*\w+\s*=")
_NAMES_SERVER = re.compile(r"\b(host|hostaddr|port|service)\s*=")


def names_server(program: str, arguments: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Tell whether a program is told to connect to a certain server, or connects to none.

    Args:
        program: name of the program, without a directory.
        arguments: its arguments.
        environment: what it would inherit.
    """
    with_value = _CLIENTS.get(program)
    if with_value is None or any(environment.get(name) for name in _VARIABLES):
        return True
    for option, value in _options(arguments, with_value):
        # Long options may be shortened.
        if option in ("-h", "-p") or (
            len(option) > 2 and any(name.startswith(option[2:]) for name in _NAMING)
        ):
            return True
        if option not in _ASSIGNING and _is_of_server(value):
            return True
    return False


def earlier_manifest(arguments: Sequence[str]) -> str | None:
    """Return the manifest of the backup before, if pg_basebackup takes an incremental one."""
    found = None
    options = list(_options(arguments, _CLIENTS["pg_basebackup"]))
    for (option, value), (_, following) in zip(options, [*options[1:], ("", "")], strict=True):
        if option == "-i":
            found = value
        elif len(option) > 2 and "--incremental".startswith(option):
            found = value or following
    return found


def _options(arguments: Sequence[str], with_value: str) -> Iterator[tuple[str, str]]:
    """Yield options with their values; what may be a value of no option has an empty name."""
    words = iter(arguments)
    for word in words:
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            if name in _ASSIGNING and not equals:
                value = next(words, "")
            yield name, value
        elif word.startswith("-"):
            yield from _letters(word, with_value, words)
        else:
            yield "", word


def _letters(word: str, with_value: str, words: Iterator[str]) -> Iterator[tuple[str, str]]:
    for position, letter in enumerate(word[1:], 2):
        if letter in with_value:
            yield f"-{letter}", word[position:] or next(words, "")
            return
        yield f"-{letter}", ""


def _is_of_server(value: str) -> bool:
    if _URI.match(value):
        return True
    return bool(_CONNECTION_STRING.match(value) and _NAMES_SERVER.search(value))
