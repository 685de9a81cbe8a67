"""Reading what is compressed, from first to last, in bounded memory.

The libraries are those of Python, and the bindings of lz4 and zstd that most programs use. What
they say of damage becomes one error, so that nobody takes half a file for a whole one.
"""

from __future__ import annotations

import bz2
import errno
import io
import lzma
import os
import re
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

_LARGEST_WINDOW = 1 << 27  # Bytes: what zstd itself accepts unasked.
_INPUT = 1 << 17  # Bytes read at once.
_GZIP = 16 + zlib.MAX_WBITS  # What zlib calls a stream with a header and a checksum.


class Compression(Enum):
    """How bytes are compressed; the values are the endings of names."""

    NONE = ""
    GZIP = "gz"
    BZIP2 = "bz2"
    XZ = "xz"
    LZ4 = "lz4"
    ZSTD = "zst"
    DEFLATE = "raw deflate"
    """What pgBackRest puts into bundles when it can store increments of blocks."""


_MAGIC = {
    b"\x1f\x8b\x08": Compression.GZIP,
    b"BZh": Compression.BZIP2,
    b"\xfd7zXZ\x00": Compression.XZ,
    b"\x04\x22\x4d\x18": Compression.LZ4,
    b"\x28\xb5\x2f\xfd": Compression.ZSTD,
}

#: The endings of compressed files, for regular expressions.
ENDINGS = "|".join(re.escape(one.value) for one in _MAGIC.values())


class DamagedContent(Exception):
    """The bytes are not what the compressor has written, or end too early."""


class ContentEndsEarly(DamagedContent):
    """What there is, is good, but there should be more: it is being made, or was cut off."""


def open_stored(path: Path) -> BinaryIO:
    """Open a file of a backup or archive, which somebody else may have put there.

    A pipe would be waited for, and a device has no end.

    Raises:
        OSError: it cannot be read, or is no regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    file = os.fdopen(descriptor, "rb")
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return file


def compression_of(path: Path) -> Compression:
    """Tell by its first bytes how a file is compressed.

    Raises:
        OSError: it cannot be read.
    """
    with open_stored(path) as file:
        start = file.read(max(map(len, _MAGIC)))
    found = (kind for magic, kind in _MAGIC.items() if start.startswith(magic))
    return next(found, Compression.NONE)


@contextmanager
def unpacked(
    path: Path, compression: Compression, part: tuple[int, int] | None = None
) -> Iterator[Unpacked]:
    """Yield a stream of what is in a file, or in a part of it.

    Args:
        part: offset and length in bytes; the whole file when ``None``.

    Raises:
        OSError: the file cannot be read.
    """
    with open_stored(path) as file:
        source: BinaryIO = file
        if part is not None:
            file.seek(part[0])
            source = cast(BinaryIO, io.BufferedReader(_Part(file, part[1]), _INPUT))
        yield Unpacked(*_decompressed(source, compression))


class Readable(Protocol):
    """What gives bytes once, from first to last."""

    def read(self, count: int) -> bytes:
        """Return the next bytes, at most so many; none at the end."""


class Unpacked:
    """What a decompressor gives, read once from first to last."""

    def __init__(self, stream: BinaryIO, errors: tuple[type[Exception], ...] = ()) -> None:
        self._stream = stream
        self._errors = errors

    def read(self, count: int) -> bytes:
        """Return the next bytes, at most so many; none at the end.

        Raises:
            DamagedContent: the compressed bytes are damaged, or end too early.
            OSError: they cannot be read.
        """
        try:
            return self._stream.read(count)
        except EOFError as error:
            raise ContentEndsEarly(str(error)) from error
        except self._errors as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # Of the disk: decompressors have no numbers for their errors.
            raise DamagedContent(str(error)) from error

    def skip(self, count: int) -> None:
        """Pass over so many bytes, or to the end.

        Raises:
            DamagedContent: the compressed bytes are damaged, or end too early.
            OSError: they cannot be read.
        """
        if isinstance(self._stream, io.BufferedReader) and self._stream.seekable():
            self._stream.seek(count, io.SEEK_CUR)
            return
        while count > 0 and (read := len(self.read(min(count, _INPUT)))):
            count -= read


class _Part(io.RawIOBase):
    """The next bytes of a file, up to a number of them."""

    def __init__(self, file: BinaryIO, length: int) -> None:
        self._file = file
        self._left = length

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)
        content = self._file.read(min(len(view), self._left))
        view[: len(content)] = content
        self._left -= len(content)
        return len(content)


class _Machine(Protocol):
    """A decompressor of one stream, as Python's modules have them."""

    eof: bool
    unused_data: bytes | None

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Streams(io.RawIOBase):
    """Streams that stand one behind another, which decompressors take for one.

    Python's own file objects lose what they have unpacked in front of the place where a file ends
    early, and those of bzip2 and xz pass over what stands behind the last stream.
    """

    def __init__(self, source: BinaryIO, make: Callable[[], _Machine]) -> None:
        self._source = source
        self._make = make
        self._machine = make()
        self._packed = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)
        content = b""
        while len(view) and not content:  # zlib takes a limit of 0 for none.
            if self._machine.eof:
                if not (packed := self._behind(self._machine.unused_data or b"")):
                    return 0
                self._packed = packed
                self._machine = self._make()
            # Some keep what they have not unpacked yet, and some give it back.
            kept = getattr(self._machine, "needs_input", True) is False
            fresh = b"" if kept else self._packed or self._source.read(_INPUT)
            if not fresh and not kept:
                raise EOFError("the compressed data ends early")
            content = self._machine.decompress(fresh, len(view))
            self._packed = getattr(self._machine, "unconsumed_tail", b"")
        view[: len(content)] = content
        return len(content)

    def _behind(self, packed: bytes) -> bytes:
        """Return what stands behind a stream, but for zeros, with which some fill up blocks."""
        while not (left := packed.lstrip(b"\0")):
            if not (packed := self._source.read(_INPUT)):
                break
        return left


def _decompressed(
    source: BinaryIO, compression: Compression
) -> tuple[BinaryIO, tuple[type[Exception], ...]]:
    """Return a decompressor's stream, and the errors by which it speaks of damage."""
    if compression is Compression.GZIP:
        return _streams(source, lambda: zlib.decompressobj(_GZIP)), (zlib.error,)
    if compression is Compression.DEFLATE:
        return _streams(source, lambda: zlib.decompressobj(-zlib.MAX_WBITS)), (zlib.error,)
    if compression is Compression.BZIP2:
        return _streams(source, bz2.BZ2Decompressor), (OSError, ValueError)
    if compression is Compression.XZ:
        return _streams(source, lzma.LZMADecompressor), (lzma.LZMAError,)
    if compression is Compression.LZ4:
        import lz4.frame

        return _streams(source, lz4.frame.LZ4FrameDecompressor), (RuntimeError,)
    if compression is Compression.ZSTD:
        import zstandard

        machine = zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW)
        reader = machine.stream_reader(
            source, read_size=_INPUT, read_across_frames=True, closefd=False
        )
        return cast(BinaryIO, reader), (zstandard.ZstdError,)
    return source, ()


def _streams(source: BinaryIO, make: Callable[[], Any]) -> BinaryIO:
    return cast(BinaryIO, _Streams(source, make))
