"""Use of CPU by a server, and of its cipher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import psutil

from tde.postgres import IoCounters, io_counters
from tde_bench.measure.cpu_time import tree_cpu_seconds

_CIPHER_BYTES = [
    f"{kind}bytes_{direction}"
    for kind in ("", "relation_", "wal_", "ephemeral_")
    for direction in ("encrypted", "decrypted")
]


class ServerProcesses(Protocol):
    """The processes that work for a server."""

    @property
    def postmaster_pid(self) -> int | None:
        """Process number of the postmaster; None when it runs elsewhere or is hidden."""

    @property
    def helper_pids(self) -> tuple[int, ...]:
        """Processes outside the server that work for it alone, such as a filesystem's daemon."""


@dataclass(frozen=True)
class Usage:
    """Counters that only grow; None where they cannot be read.

    Attributes:
        cpu_seconds: user and system time of the server's whole process tree, and of its helpers.
        cipher: bytes encrypted and decrypted, None for a server without tde.
        steal_seconds: time that the hypervisor gave this machine's CPUs to somebody else.
    """

    cpu_seconds: float | None
    cipher: IoCounters | None
    steal_seconds: float

    def since(self, earlier: Usage) -> Usage:
        """Return what was used between two readings."""
        cpu = None
        if self.cpu_seconds is not None and earlier.cpu_seconds is not None:
            cpu = self.cpu_seconds - earlier.cpu_seconds
        cipher = None
        if self.cipher is not None and earlier.cipher is not None:
            cipher = self.cipher - earlier.cipher
        return Usage(cpu, cipher, self.steal_seconds - earlier.steal_seconds)

    def cipher_bytes(self) -> dict[str, Any]:
        """Return the bytes by kind of file and direction, named as in raw runs; None if unknown."""
        return {name: getattr(self.cipher, name, None) for name in _CIPHER_BYTES}

    def as_new_server(self) -> Usage:
        """Return the reading of a server before its start, when what it counts was zero."""
        return Usage(0.0, IoCounters(0, 0, 0, 0, 0, 0), self.steal_seconds)


def steal_seconds() -> float:
    """Return the time that the hypervisor has given to others so far, over all CPUs."""
    # Linux reports zero on bare metal; other systems do not have the field.
    return float(getattr(psutil.cpu_times(), "steal", 0.0))


def read_usage(server: ServerProcesses) -> Usage:
    """Read the counters of a server now."""
    steal = steal_seconds()
    pid = server.postmaster_pid
    if pid is None:
        return Usage(None, None, steal)
    cpu = tree_cpu_seconds(pid) + sum(map(tree_cpu_seconds, server.helper_pids))
    return Usage(cpu, io_counters(pid), steal)
