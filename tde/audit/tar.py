"""Tar archives of base backups, member by member, without keeping any.

Only what pg_basebackup, Barman and tar write of a backup is read: ustar headers of files,
directories and links. What else there is, is an error, and never passed over.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tde.audit.unpacking import Compression, ContentEndsEarly, DamagedContent, Unpacked, unpacked

_RECORD = tarfile.BLOCKSIZE
_CHUNK = 1 << 16
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE)
_OTHERS = (tarfile.DIRTYPE, tarfile.SYMTYPE)


@dataclass(frozen=True)
class TarArchive:
    """A tar archive, compressed or not.

    Attributes:
        prefix: what stands in front of its names in a data directory, for example ``pg_wal/``.
    """

    path: Path
    compression: Compression
    prefix: str = ""


@dataclass(frozen=True)
class Member:
    """A file in an archive.

    Attributes:
        name: path in the data directory.
        offset: of its bytes in the archive, unpacked.
    """

    name: str
    size: int
    offset: int


class MemberStream:
    """The bytes of one member; what is not read is passed over with the next member."""

    def __init__(self, archive: Unpacked, size: int) -> None:
        self._archive = archive
        self.left = size

    def read(self, count: int) -> bytes:
        """Return the next bytes, at most so many; none at the end of the member.

        Raises:
            DamagedContent: the archive ends early, or is damaged.
            OSError: it cannot be read.
        """
        content = self._archive.read(min(count, self.left))
        if self.left and not content:
            raise ContentEndsEarly("the archive ends early")
        self.left -= len(content)
        return content


@contextmanager
def open_tar(tar: TarArchive) -> Iterator[Iterator[tuple[Member, MemberStream]]]:
    """Yield an iterator over the files of an archive, each with its bytes.

    Raises:
        OSError: the archive cannot be read.
    """
    with unpacked(tar.path, tar.compression) as stream:
        yield _members(tar, stream)


def _members(tar: TarArchive, stream: Unpacked) -> Iterator[tuple[Member, MemberStream]]:
    """Yield the members.

    Raises:
        DamagedContent: it is no whole archive, or has members that are not known.
        OSError: it cannot be read.
    """
    position = 0
    while any(header := _exactly(stream, _RECORD)):
        position += _RECORD
        try:
            info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise DamagedContent(f"no header of a member at byte {position - _RECORD}") from error
        if info.size < 0:
            raise DamagedContent(f"the member at byte {position - _RECORD} has {info.size} bytes")
        if info.type in _FILES:
            content = MemberStream(stream, info.size)
            name = tar.prefix + info.name.removeprefix("./")
            yield Member(name, info.size, position), content
            padding = -info.size % _RECORD
            stream.skip(content.left)
            if any(_exactly(stream, padding)):
                raise DamagedContent(f"there is something behind the end of {info.name}")
            position += info.size + padding
        elif info.type not in _OTHERS:
            raise DamagedContent(
                f"the member at byte {position - _RECORD} is of a kind that is not known "
                f"({info.type!r})"
            )
    _require_zeros(stream)


def _exactly(stream: Unpacked, count: int) -> bytes:
    content = b""
    while len(content) < count:
        piece = stream.read(count - len(content))
        if not piece:
            raise ContentEndsEarly("the archive has no end")
        content += piece
    return content


def _require_zeros(stream: Unpacked) -> None:
    """Look behind the end, where tar ignores whatever there is."""
    while piece := stream.read(_CHUNK):
        if any(piece):
            raise DamagedContent("there is something behind the end of the archive")
