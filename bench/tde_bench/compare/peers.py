"""The peers: which there are, whether they can run here, and what a reader must know of them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tde import Algorithm
from tde.postgres import PostgresBinaries
from tde.postgres.server.program import run_program
from tde_bench.configurations import (
    GOCRYPTFS,
    LUKS,
    NO_ENCRYPTION,
    PGCRYPTO,
    Configuration,
    existing as existing_servers,
    require_all_instructions,
)


@dataclass(frozen=True)
class Peer:
    """One way to encrypt, or not to.

    Attributes:
        reason: why it cannot run here; None when it can.
        note: what a reader must know to understand its figures.
    """

    configuration: Configuration
    reason: str | None = None
    note: str | None = None


def all_peers(
    algorithms: Sequence[Algorithm], dsns: Sequence[str], binaries: PostgresBinaries
) -> list[Peer]:
    """Return every peer, the plain server first, with the reasons of those that cannot run.

    Raises:
        BenchError: as :func:`require_all_instructions`.
    """
    require_all_instructions()
    peers = [Peer(NO_ENCRYPTION)]
    for algorithm in algorithms:
        bits = algorithm.aes_bits
        peers.append(Peer(Configuration(f"aes{bits}", f"tde AES-{bits}", algorithm)))
    peers.append(
        Peer(
            Configuration(GOCRYPTFS, "gocryptfs"),
            _gocryptfs_missing(),
            "a FUSE filesystem (AES-256-GCM, names encrypted); the CPU of its daemon is counted.",
        )
    )
    peers.append(
        Peer(
            Configuration(LUKS, "LUKS"),
            _luks_missing(),
            "ext4 on dm-crypt on a file (AES-256-XTS); dm-crypt works in threads of the kernel, "
            "which belong to no server, so its CPU is not shown; the file is on the filesystem of "
            "the other servers, so it is cached, and each fsync written, a second time, which a "
            "partition would not be.",
        )
    )
    peers.append(
        Peer(
            Configuration(PGCRYPTO, "pgcrypto columns"),
            _pgcrypto_missing(binaries),
            "balances, deltas and fillers of the TPC-B tables are pgp_sym_encrypt(aes256, "
            "s2k-mode=1); keys, times, other columns and everything else stay plain, and an "
            "encrypted column cannot be indexed or aggregated without decrypting it.",
        )
    )
    peers += [Peer(configuration) for configuration in existing_servers(dsns)]
    return peers


def _gocryptfs_missing() -> str | None:
    if shutil.which("gocryptfs") is None:
        return "gocryptfs is not installed (apt-get install gocryptfs)"
    if shutil.which("fusermount3") is None and shutil.which("fusermount") is None:
        return "fusermount is not installed (apt-get install fuse3)"
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse does not exist or is closed to this user"
    return None


def _luks_missing() -> str | None:
    if os.geteuid() != 0:
        return "only root can set up a device"
    for program in ("cryptsetup", "mkfs.ext4", "mount", "umount"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    if not Path("/dev/mapper/control").exists():
        return "this kernel has no device mapper (/dev/mapper/control)"
    return None


def _pgcrypto_missing(binaries: PostgresBinaries) -> str | None:
    done = run_program(binaries, "pg_config", ["--sharedir"])
    control = Path(done.stdout.strip(), "extension", "pgcrypto.control")
    if done.returncode != 0 or not control.exists():
        return f"this PostgreSQL has no extension pgcrypto ({control})"
    return None
