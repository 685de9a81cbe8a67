"""Counters of a running server: how many bytes it has encrypted and decrypted."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from tde.postgres.server.published import PublishedStatus, read_published_status

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
        published = read_published_status(pid)
    except OSError:
        return None
    return None if published is None else sum_counters(published)


def sum_counters(published: PublishedStatus) -> IoCounters | None:
    """Sum the stripes of the counters; ``None`` when there are too few of them.

    The processes of a server write to different stripes, so that they do not wait for each other.
    """
    words = published.words_per_stripe
    if words < _FIELDS:
        return None
    sums = [0] * _FIELDS
    for stripe in struct.iter_unpack(f"={words}Q", published.stripes):
        for index, value in enumerate(stripe[:_FIELDS]):
            sums[index] += value
    return IoCounters(*sums)
