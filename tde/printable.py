"""Text from files and names that others write, made fit for a terminal, a log and a report.

A file's name may hold bytes that erase the line above it, or begin a new line that looks like
another message. They are shown as escapes, so nothing is hidden and nothing is obeyed.
"""

from __future__ import annotations

import codecs

# Looked up now: errors are also made with the rights of the server's user, for whom Python's own
# files may be out of reach.
_escape = codecs.getencoder("unicode_escape")
# What Python decodes a byte of a path to that is not UTF-8 (PEP 383): this plus the byte.
_FIRST_SURROGATE = 0xDC00


def printable(text: str, limit: int | None = None) -> str:
    """Return the text on one line without anything that steers a terminal.

    Args:
        limit: how many characters to show; the rest becomes an ellipsis.
    """
    if limit is not None and len(text) > limit:
        text = f"{text[: limit - 1]}…"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    """Return an escape. A byte that is not UTF-8 is shown as a shell takes it in ``$'…'``."""
    byte = ord(character) - _FIRST_SURROGATE
    if 0x80 <= byte <= 0xFF:
        return f"\\x{byte:02x}"
    return _escape(character)[0].decode()


def printable_lines(text: str) -> str:
    """Return text of several lines; line ends and tabs stay."""
    if text.isprintable():
        return text
    return "".join(c if c in "\n\t" else printable(c) for c in text)
