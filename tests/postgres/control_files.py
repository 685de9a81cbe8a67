"""pg_control as docs/format.md, section 10, describes it, written without the C core."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

SHUT_DOWN, IN_PRODUCTION = 1, 6
CONTROL_VERSION_AT = 8
STATE = slice(16, 20)
NOTE = slice(480, 512)
MAGIC = b"TDESTAT\x01"


def crc32c(data: bytes) -> int:
    crc = 0xFFFF_FFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F6_3B78 if crc & 1 else 0)
    return crc ^ 0xFFFF_FFFF


def crc_position(control: bytes) -> int:
    """Return where PostgreSQL's checksum is: behind the last member, in front of zeros."""
    end = len(control[: NOTE.start].rstrip(b"\0"))
    for at in range(end - end % 4, end - 8, -4):
        if struct.unpack_from("=I", control, at)[0] == crc32c(control[:at]):
            return at
    raise AssertionError("this is no control file")


def with_state(control: bytes, state: int) -> bytes:
    """Return the file with another state and a checksum that fits, without a note."""
    at = crc_position(control)
    result = bytearray(control)
    result[NOTE] = bytes(32)
    result[STATE] = struct.pack("=I", state)
    struct.pack_into("=I", result, at, crc32c(bytes(result[:at])))
    return bytes(result)


def with_checksums_on(control: bytes) -> bytes:
    """Return the file with data checksums on and a checksum of its own that fits."""
    end = crc_position(control)
    # toast_max_chunk_size, loblksize and float8ByVal; data_checksum_version is behind them, and
    # since 19 behind what it was when initdb ran, too.
    at = control.index(struct.pack("=III", 1996, 2048, 1)) + 12
    if struct.unpack_from("=I", control, CONTROL_VERSION_AT)[0] >= 1905:
        at += 4
    assert struct.unpack_from("=I", control, at) == (0,)
    result = bytearray(control)
    struct.pack_into("=I", result, at, 1)
    struct.pack_into("=I", result, end, crc32c(bytes(result[:end])))
    return bytes(result)


def state_of(control: bytes) -> int:
    return int(struct.unpack("=I", control[STATE])[0])


def hidden_state(control: bytes) -> bytes:
    """Return what is stored for a control file that PostgreSQL has written."""
    true_state = state_of(control)
    assert true_state in (1, 2)
    result = bytearray(with_state(control, IN_PRODUCTION))
    result[480:492] = MAGIC + struct.pack(">I", true_state)
    result[492:512] = hashlib.sha256(bytes(result[:492])).digest()[:20]
    return bytes(result)


def store_as_landed(data_directory: Path) -> None:
    """Store the state of a stopped cluster as releases before this format did: in the open."""
    path = data_directory / "global/pg_control"
    content = path.read_bytes()
    (true_state,) = struct.unpack(">I", content[488:492])
    with path.open("r+b") as file:
        file.write(with_state(content, true_state))
