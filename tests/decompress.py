"""Decompresses what a machine that stopped may have left, as far as it goes."""

from __future__ import annotations

import ctypes
import zlib


def decompress(kind: str, data: bytes) -> tuple[bytes, bool]:
    """Return what can be decompressed, up to an error or the end, and whether it is complete."""
    return _gunzip(data) if kind == "gzip" else _unlz4(data)


# A decompressor that meets an error gives nothing of the piece that it got, so what may be
# damaged goes in byte by byte; tests do that with small files only.
_SMALL = 100_000


def _pieces(data: bytes) -> list[bytes]:
    size = 1 if len(data) < _SMALL else 1 << 16
    return [data[i : i + size] for i in range(0, len(data), size)]


def _gunzip(data: bytes) -> tuple[bytes, bool]:
    machine, out = zlib.decompressobj(31), []
    try:
        for piece in _pieces(data):
            out.append(machine.decompress(piece))
    except zlib.error:
        return b"".join(out), False
    return b"".join(out), machine.eof and not machine.unused_data


def _unlz4(data: bytes) -> tuple[bytes, bool]:
    library = ctypes.CDLL("liblz4.so.1")
    library.LZ4F_decompress.restype = ctypes.c_size_t
    machine, out = ctypes.c_void_p(), []
    library.LZ4F_createDecompressionContext(ctypes.byref(machine), 100)
    room = ctypes.create_string_buffer(1 << 18)
    left, taken = 1, 0
    for piece in _pieces(data):
        while piece and left:
            length, used = ctypes.c_size_t(len(room)), ctypes.c_size_t(len(piece))
            left = library.LZ4F_decompress(
                machine, room, ctypes.byref(length), piece, ctypes.byref(used), None
            )
            if library.LZ4F_isError(ctypes.c_size_t(left)):
                left = 0
                break
            out.append(room[: length.value])
            piece = piece[used.value :]
            taken += used.value
    complete = left == 0 and taken == len(data)
    library.LZ4F_freeDecompressionContext(machine)
    return b"".join(out), complete
