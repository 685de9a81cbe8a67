"""The arguments of postgres, taken apart as its own getopt does it.

What is looked for in postmaster.opts must be found in every form that the server takes: letters
share a word (``-ec name=value``), values are joined or stand alone, and ``-e-name=value`` is
``-e --name=value``. The letters are those of PostmasterMain, which are the same from 15 to 19.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

_WITH_VALUE = frozenset("BcCDdfhkNprStW-")
_WITHOUT_VALUE = frozenset("beEFijlnOPsT")
UNKNOWN = ""
"""Stands for the letter of a word that is no option; the server does not start with it."""


def options_in(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the options: a letter, or :data:`UNKNOWN`, and the value; empty when it has none."""
    rest = iter(arguments)
    for word in rest:
        if word == "--":
            yield from ((UNKNOWN, other) for other in rest)
            return
        if len(word) < 2 or word[0] != "-":
            yield UNKNOWN, word  # getopt goes on behind it.
            continue
        yield from _letters(word, rest)


def _letters(word: str, rest: Iterator[str]) -> Iterator[tuple[str, str]]:
    for position, letter in enumerate(word[1:], 2):
        if letter in _WITH_VALUE:
            value = word[position:] or next(rest, None)
            yield (UNKNOWN, word) if value is None else (letter, value)
            return
        yield (letter, "") if letter in _WITHOUT_VALUE else (UNKNOWN, word)


def given_settings(arguments: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Yield the settings on a command line; ``-D`` counts as data_directory."""
    for letter, text in options_in(arguments):
        if letter == "D":
            yield "data_directory", os.fsencode(text)
        elif letter in ("c", "-"):
            name, equals, value = text.partition("=")
            if equals:
                yield name.replace("-", "_").lower(), os.fsencode(value)
