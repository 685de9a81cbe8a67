"""The data directory on the command line of a PostgreSQL program, as the program would find it.

Only of the programs that work on a cluster with its keys. c_ext/program/arguments.c does the same
for those of `tde pg install-bin` that change one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

INFORMATION_OPTIONS = frozenset({"--help", "-?", "--version", "-V"})


@dataclass(frozen=True)
class _Program:
    """What the parser of a program knows.

    Attributes:
        short: its short options as getopt(3) takes them.
        long: the name of the long option for the directory, first, and all others with a value.
        positional: whether the directory may stand alone.
        permutes: whether options may come behind the first argument that is none.
        letter: the short option for the directory; empty when there is none.
    """

    short: str
    long: tuple[str, ...] = ()
    positional: bool = False
    permutes: bool = True
    letter: str = "D"


_SERVER = _Program("B:bC:c:D:d:EeFf:h:ijk:lN:nOPp:r:S:sTt:v:W:", permutes=False)
_PROGRAMS = {
    "postgres": _SERVER,
    "postmaster": _SERVER,
    "pg_ctl": _Program(
        "cD:e:l:m:N:o:p:P:sS:t:U:wW", ("pgdata", "log", "mode", "options", "timeout")
    ),
    "pg_checksums": _Program("cD:deNf:Pv", ("pgdata", "filenode", "sync-method"), positional=True),
    "pg_checksums_ext": _Program(
        "abcD:def:NPv", ("pgdata", "filenode", "max-rate", "sync-method"), positional=True
    ),
    "pg_resetwal": _Program(
        "c:D:e:fl:m:no:O:u:x:",
        (
            *("pgdata", "commit-timestamp-ids", "epoch", "multixact-ids", "multixact-offset"),
            *("next-oid", "next-transaction-id", "next-wal-file", "oldest-transaction-id"),
            *("wal-segsize", "char-signedness"),
        ),
        positional=True,
    ),
    "pg_createsubscriber": _Program(
        "ad:D:l:np:P:s:t:TU:v",
        (
            *("pgdata", "database", "publisher-port", "publisher-server", "socketdir"),
            *("recovery-timeout", "subscriber-username", "config-file", "publication"),
            *("replication-slot", "subscription", "remove", "clean", "logdir"),
        ),
    ),
    "pg_rewind": _Program(
        "cD:nNPR",
        ("target-pgdata", "source-pgdata", "source-server", "config-file", "sync-method"),
    ),
}
# These change nothing, but with the keys of another cluster they fail with messages that mislead.
_READING_PROGRAMS = {
    "pg_verifybackup": _Program(
        "eF:i:m:nPqsw:",
        ("", "format", "ignore", "manifest-path", "wal-directory", "wal-path"),
        positional=True,
        letter="",
    ),
    "pg_waldump": _Program(
        "bB:e:fF:n:p:qr:R:s:t:wx:z",
        (
            *("path", "block", "end", "fork", "limit", "rmgr", "relation", "start", "timeline"),
            *("xid", "save-fullpage"),
        ),
        letter="p",
    ),
}


def named_data_directory(program: str, arguments: Sequence[str]) -> Path | None:
    """Return the data directory that a program is told to work on; ``None`` if there is none.

    Of pg_waldump it may be the directory of WAL as well.

    Args:
        program: name of the program, without a directory.
        arguments: its arguments.
    """
    known = _PROGRAMS.get(program) or _READING_PROGRAMS.get(program)
    if known is None or (arguments and arguments[0] in INFORMATION_OPTIONS):
        return None
    found: str | None = None
    positional: str | None = None
    words = iter(arguments)
    for word in words:
        if word == "--":
            positional = positional or next(words, None)
            break
        if word.startswith("--"):
            option, value = _long_option(known, word)
            if option is not None and value is None:
                value = next(words, None)
            is_directory = option is not None and option == known.long[0]
        elif word.startswith("-") and word != "-":
            letter, value = _short_option(known, word)
            if letter is not None and value is None:
                value = next(words, None)
            is_directory = letter is not None and letter == known.letter
        else:
            positional = positional or word
            if not known.permutes:
                break
            continue
        if is_directory:
            found = value
    if found is None and known.positional:
        found = positional
    return None if found is None else Path(found)


def _long_option(program: _Program, word: str) -> tuple[str | None, str | None]:
    """Return the option with a value that a word is, perhaps shortened, and the value in it."""
    name, equals, value = word[2:].partition("=")
    names = [name] if name in program.long else [o for o in program.long if o.startswith(name)]
    if len(names) != 1:
        return None, None
    return names[0], value if equals else None


def _short_option(program: _Program, word: str) -> tuple[str | None, str | None]:
    """Return the option with a value that a group of letters ends with, and the value in it."""
    for position, letter in enumerate(word[1:], 2):
        if f"{letter}:" in program.short:
            return letter, word[position:] or None
    return None, None
