"""Configurations to compare: ephemeral clusters, encrypted or not, and the user's servers."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass

from tde.algorithms import Algorithm
from tde.machine.capabilities import OWN
from tde_bench.errors import BenchError

# Clears the AES instructions and the multiplication without carry, and with them all that OpenSSL
# builds upon them (VAES), in the processor's capabilities as OpenSSL sees them.
SOFTWARE_AES = {OWN.variable: OWN.without_aes}
# Clears nothing, whatever the environment of the benchmark says, where there is a value for that.
HARDWARE_AES = {OWN.variable: OWN.with_all} if OWN.can_clear else {}


@dataclass(frozen=True)
class Configuration:
    """One column of the comparison.

    Attributes:
        name: unique within a run; what raw results call it.
        label: what people read.
        algorithm: the encryption of an ephemeral cluster, None for a plain one.
        dsn: connection string of a server that the user runs, None for an ephemeral cluster.
        software: keep OpenSSL from using the CPU's AES instructions; None leaves that to the
            environment of this process.
    """

    name: str
    label: str
    algorithm: Algorithm | None = None
    dsn: str | None = None
    software: bool | None = False

    @property
    def environment(self) -> dict[str, str]:
        """Variables of an ephemeral server beyond those of this process."""
        if self.software is None:
            return {}
        return dict(SOFTWARE_AES if self.software else HARDWARE_AES)


NO_ENCRYPTION = Configuration("none", "no encryption")
# The same once more, to see how far apart two equal servers are.
CONTROL = Configuration("control", "control")

# Servers that encrypt below PostgreSQL or in its columns, for ``tde-bench compare``.
GOCRYPTFS = "gocryptfs"
LUKS = "luks"
PGCRYPTO = "pgcrypto"

_OWN_NAMES = frozenset(
    {NO_ENCRYPTION.name, CONTROL.name, GOCRYPTFS, LUKS, PGCRYPTO}
    | {f"aes{algorithm.aes_bits}" for algorithm in Algorithm}
    | {f"aes{algorithm.aes_bits}-software" for algorithm in Algorithm}
)


def ephemeral(algorithms: Iterable[Algorithm]) -> list[Configuration]:
    """Return the plain configuration, the baseline, and one per algorithm.

    Raises:
        BenchError: as :func:`require_all_instructions`.
    """
    require_all_instructions()
    sizes = sorted({algorithm.aes_bits for algorithm in algorithms})
    encrypted = [
        Configuration(f"aes{size}", f"AES-{size}", Algorithm.from_bits(size)) for size in sizes
    ]
    return [NO_ENCRYPTION, *encrypted]


def software_and_hardware(algorithms: Iterable[Algorithm]) -> list[Configuration]:
    """Return the bars of the batch chart: plain, then each algorithm without and with AES-NI.

    Raises:
        BenchError: as :func:`require_all_instructions`.
    """
    require_all_instructions()
    bars = [NO_ENCRYPTION]
    for size in sorted({algorithm.aes_bits for algorithm in algorithms}):
        algorithm = Algorithm.from_bits(size)
        bars.append(
            Configuration(f"aes{size}-software", f"AES-{size} software", algorithm, software=True)
        )
        bars.append(Configuration(f"aes{size}", f"AES-{size} {OWN.instructions}", algorithm))
    return bars


def require_all_instructions() -> None:
    """Refuse what the environment keeps from OpenSSL, where no value of a server's gives it back.

    Raises:
        BenchError: the variable is set, on 64-bit ARM.
    """
    if not OWN.can_clear and OWN.variable in os.environ:
        raise BenchError(
            f"{OWN.variable} is set, so OpenSSL would see less than the processor has",
            remedy=f"Unset it: tde-bench itself sets {OWN.variable}={OWN.without_aes} for servers "
            "that do without AES instructions.",
        )


def existing(specifications: Iterable[str]) -> list[Configuration]:
    """Return one configuration per ``DSN[=label]``.

    Raises:
        BenchError: when two have the same label, or that of something that tde-bench makes.
    """
    configurations = []
    for number, specification in enumerate(specifications, start=1):
        dsn, label = split_label(specification)
        name = label or f"server{number}"
        configurations.append(Configuration(name, name, dsn=dsn))
    names = [configuration.name for configuration in configurations]
    if len(set(names)) != len(names):
        raise BenchError("two --existing servers have the same label")
    if taken := _OWN_NAMES.intersection(names):
        raise BenchError(
            f"the label {min(taken)} stands for what tde-bench makes itself",
            remedy=f"Choose another one, for example my-{min(taken)}.",
        )
    return configurations


# The last part of a URI starts after one of these; only parts after ? and & are name=value.
_URI_PART = re.compile(r"([/?&])([^/?&]*)$")
_LABEL = re.compile(r"[\w.-]*")
# A password, also sslpassword, in quotes or not, that stands last.
_LAST_PASSWORD = re.compile(r"password\s*=\s*('[^']*'|[^\s&']*)\s*$", re.IGNORECASE)


def split_label(specification: str) -> tuple[str, str | None]:
    """Split ``DSN[=label]``, where the DSN itself may hold equal signs.

    The label follows an equal sign that the DSN cannot need: the second one in the last
    ``name=value`` of the DSN, or the first one when the DSN is a URI that ends with its
    database. ``host=/tmp port=5433=mine`` and ``postgresql://host/db=mine`` are labelled. A label
    is one word. At the end of a password nothing is taken for a label, which anybody may see.
    """
    if _LAST_PASSWORD.search(specification):
        return specification, None
    if "://" in specification:
        match = _URI_PART.search(specification)
        assert match is not None  # "://" always leaves a part after its last slash.
        needed = 0 if match[1] == "/" else 1
        last = match[2]
    else:
        needed = 1
        last = specification.split()[-1] if specification.split() else ""
    if last.count("=") <= needed:
        return specification, None
    dsn, _, label = specification.rpartition("=")
    return (dsn, label or None) if _LABEL.fullmatch(label) else (specification, None)
