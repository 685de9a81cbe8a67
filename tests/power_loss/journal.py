"""Reads the journal that the recorder writes; its format stands in recorder/journal.h."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MAGIC = b"TDEPOWR\1"
_HEADER = struct.Struct("<cIQQHHI")
NO_CHANGE = 2**32 - 1  # An owner or group that chown leaves as it is.


@dataclass(frozen=True)
class Record:
    """One change; ``what`` is the letter in the table of recorder/journal.h."""

    what: str
    file: int
    a: int
    b: int
    path: str
    second: str
    data: bytes

    @property
    def owner(self) -> tuple[int, int]:
        """User and group, in the records that have them."""
        return self.a >> 32, self.a & 0xFFFFFFFF


def read_journal(path: Path) -> Iterator[Record]:
    """Yield every whole record; one that is cut off at the end is left out."""
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise ValueError(f"{path} is no journal of the recorder, or one of another version")
        while len(header := file.read(_HEADER.size)) == _HEADER.size:
            what, number, a, b, path_length, second_length, data_length = _HEADER.unpack(header)
            body = file.read(path_length + second_length + data_length)
            if len(body) < path_length + second_length + data_length:
                return
            names = body[: path_length + second_length]
            yield Record(
                what.decode(),
                number,
                a,
                b,
                names[:path_length].decode(),
                names[path_length:].decode(),
                body[path_length + second_length :],
            )
