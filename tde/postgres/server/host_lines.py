"""Lines of pg_hosts.conf, which PostgreSQL 19 reads, that run a program.

Its fifth field is a command that prints the passphrase of a host's key. The file is read as those
for authentication are (hba.c); all that matters here is to leave no such line out. So what is not
surely without a command counts: quotes are not looked at, and text behind a # is not left away.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_FIELDS_WITHOUT_COMMAND = 4  # Host name, certificate, key, authorities.
_INCLUDES = (b"include", b'"include')
_TOKEN = re.compile(rb'"((?:[^"]|"")*)"|([^\s,"]+)')


def command_lines(content: bytes, *, taken_in: bool) -> Iterator[tuple[int, bytes]]:
    """Yield the number and the text of each line that may run a program, or takes others in.

    Args:
        content: of the file.
        taken_in: whether a line of another file takes this one in; any line may then be a command.
    """
    for number, text in _joined(content):
        line = text.strip()
        if not line or line.startswith(b"#"):
            continue
        if taken_in or len(line.split()) > _FIELDS_WITHOUT_COMMAND or _takes_others(line):
            yield number, line


def names_in(line: bytes) -> list[bytes]:
    """Return the names in a line that are, or may be, files with more lines."""
    if not _takes_others(line):
        return []
    return [(quoted.replace(b'""', b'"') or bare).lstrip(b"@") for quoted, bare in
            _TOKEN.findall(line)]  # fmt: skip


def _takes_others(line: bytes) -> bool:
    return line.startswith(_INCLUDES) or b"@" in line


def _joined(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield lines, each with those that a backslash at its end adds to it (tokenize_auth_file)."""
    whole = b""
    continued = first = 0
    for number, text in enumerate(content.split(b"\n"), 1):
        first = first or number
        whole = (whole + text).rstrip(b"\r")
        # What is left of a line after its backslash was taken does not continue once more.
        if len(whole) > continued and whole.endswith(b"\\"):
            whole = whole[:-1]
            continued = len(whole)
            continue
        yield first, whole
        whole, continued, first = b"", 0, 0
    if whole:
        yield first, whole
