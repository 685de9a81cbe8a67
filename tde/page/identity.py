"""The identity of a page: which page of which file a piece of ciphertext is.

A page is encrypted under a tweak made of its identity and its block number, never of a
path, so raw copies of a file stay valid wherever they lie (docs/format.md).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import IntEnum

from tde import _core
from tde.errors import IdentityError

_MAX_UINT32 = 0xFFFF_FFFF

# Looked up once: a call for one page takes less than a microsecond.
_RELATION = _core.CLASS_RELATION
_TEMPORARY = _core.CLASS_TEMP_RELATION

#: What :mod:`tde._core` calls an identity: file class, three words, fork.
CoreIdentity = tuple[int, int, int, int, int]


class Fork(IntEnum):
    """A fork of a relation, with PostgreSQL's own ``ForkNumber``."""

    MAIN = 0
    FSM = 1
    VM = 2
    INIT = 3


def _check_uint32(name: str, value: int, minimum: int = 0) -> None:
    if not minimum <= value <= _MAX_UINT32:
        raise IdentityError(f"{name} must be {minimum} to {_MAX_UINT32}, not {value}")


@dataclass(frozen=True, slots=True)
class RelationIdentity:
    """One fork of a relation, all its segment files together.

    Args:
        database: OID of the database; 0 for relations that all databases share (``global/``).
        relfilenumber: the number in the file's name, 1 to 2**32 - 1.
        fork: main data, free space map, visibility map or the init fork.
        temporary: whether it is a temporary table's file (``t<backend>_<relfilenumber>``).

    Raises:
        IdentityError: when a number is out of its range.
    """

    database: int
    relfilenumber: int
    fork: Fork = Fork.MAIN
    temporary: bool = False

    def __post_init__(self) -> None:
        _check_uint32("database", self.database)
        _check_uint32("relfilenumber", self.relfilenumber, minimum=1)
        if self.fork not in tuple(Fork):
            raise IdentityError(f"fork must be one of tde.Fork, not {self.fork!r}")

    def to_core(self) -> CoreIdentity:
        """Return the tuple that :mod:`tde._core` takes."""
        file_class = _TEMPORARY if self.temporary else _RELATION
        return (file_class, self.database, self.relfilenumber, 0, self.fork)


@dataclass(frozen=True, slots=True)
class WalIdentity:
    """One segment of the write-ahead log: the three words of its 24-digit name.

    Raises:
        IdentityError: when a word is not in 0 to 2**32 - 1.
    """

    timeline: int
    log: int
    segment: int

    def __post_init__(self) -> None:
        _check_uint32("timeline", self.timeline)
        _check_uint32("log", self.log)
        _check_uint32("segment", self.segment)

    def to_core(self) -> CoreIdentity:
        """Return the tuple that :mod:`tde._core` takes."""
        return (_core.CLASS_WAL, self.timeline, self.log, self.segment, 0)


PageIdentity = RelationIdentity | WalIdentity


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """What the name of a file tells about the pages in it.

    Attributes:
        identity: what the pages are encrypted for.
        first_block: block number, within ``identity``, of the file's first page: not 0 in
            the second and later 1 GiB segment files of a relation.
        tablespace: OID of the tablespace whose key is used; None for WAL, which has its own.
    """

    identity: PageIdentity
    first_block: int
    tablespace: int | None

    @classmethod
    def from_path(cls, path: str | os.PathLike[str]) -> FileIdentity:
        """Return the identity of a relation file or WAL segment from its name.

        Args:
            path: relative to the data directory, or absolute; only its last components count,
                and the file need not exist.

        Raises:
            IdentityError: when the name is that of neither a relation file nor a WAL segment.
        """
        parsed = _core.parse_path(path)
        file_class, tablespace, word0, word1, word2, fork, first_block, _name = parsed
        if file_class == _core.CLASS_WAL:
            return cls(WalIdentity(word0, word1, word2), first_block, None)
        if file_class in (_core.CLASS_RELATION, _core.CLASS_TEMP_RELATION):
            temporary = file_class == _core.CLASS_TEMP_RELATION
            relation = RelationIdentity(word0, word1, Fork(fork), temporary)
            return cls(relation, first_block, tablespace)
        raise IdentityError(f"{os.fspath(path)!r} names neither a relation file nor a WAL segment")
