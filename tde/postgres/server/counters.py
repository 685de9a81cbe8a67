"""Counters of a running server: how many bytes it has encrypted and decrypted."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from tde.machine.process_files import process_descriptors, read_process_file

COUNTERS_MAGIC = 0x5444454354523031
_LINK_PREFIX = "/memfd:tde-counters"
_HEADER = struct.Struct("=4Q")  # Magic, number of stripes, words per stripe, words before them.
_FIELDS = 6


@dataclass(frozen=True)
class IoCounters:
    """Bytes that a server encrypted and decrypted since it started."""

    relation_bytes_encrypted: int
    relation_bytes_decrypted: int
    wal_bytes_encrypted: int
    wal_bytes_decrypted: int
    ephemeral_bytes_encrypted: int
    ephemeral_bytes_decrypted: int

    @property
    def bytes_encrypted(self) -> int:
        """All classes of files together."""
        return (
            self.relation_bytes_encrypted
            + self.wal_bytes_encrypted
            + self.ephemeral_bytes_encrypted
        )

    @property
    def bytes_decrypted(self) -> int:
        """All classes of files together."""
        return (
            self.relation_bytes_decrypted
            + self.wal_bytes_decrypted
            + self.ephemeral_bytes_decrypted
        )

    def __sub__(self, earlier: IoCounters) -> IoCounters:
        """Return what happened since ``earlier``."""
        return IoCounters(
            self.relation_bytes_encrypted - earlier.relation_bytes_encrypted,
            self.relation_bytes_decrypted - earlier.relation_bytes_decrypted,
            self.wal_bytes_encrypted - earlier.wal_bytes_encrypted,
            self.wal_bytes_decrypted - earlier.wal_bytes_decrypted,
            self.ephemeral_bytes_encrypted - earlier.ephemeral_bytes_encrypted,
            self.ephemeral_bytes_decrypted - earlier.ephemeral_bytes_decrypted,
        )


def io_counters(pid: int) -> IoCounters | None:
    """Return the counters of the server with this postmaster, or ``None`` when it has none.

    A server without encryption has none, and neither has a process that is gone.
    """
    try:
        for number, target in process_descriptors(pid).items():
            if target.startswith(_LINK_PREFIX):
                return parse_counters(read_process_file(pid, f"fd/{number}"))
    except OSError:
        return None
    return None


def parse_counters(content: bytes) -> IoCounters | None:
    """Sum the stripes of a counter area; ``None`` when it is of an unknown or torn format.

    The processes of a server write to different stripes, so that they do not wait for each other.
    """
    if len(content) < _HEADER.size:
        return None
    magic, stripes, words, start = _HEADER.unpack_from(content)
    if magic != COUNTERS_MAGIC or words < _FIELDS or start * 8 < _HEADER.size:
        return None
    if len(content) < (start + stripes * words) * 8:
        return None
    sums = [0] * _FIELDS
    for stripe in range(stripes):
        offset = (start + stripe * words) * 8
        for index, value in enumerate(struct.unpack_from(f"={_FIELDS}Q", content, offset)):
            sums[index] += value
    return IoCounters(*sums)
