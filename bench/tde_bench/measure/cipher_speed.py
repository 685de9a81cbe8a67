"""The speed of the cipher itself: ``openssl speed``, measured in the same run.

What encryption must cost at the least is the bytes that go through the cipher times this many
seconds per byte. How much more a server pays is the *limit* that results report:

    added CPU seconds / (bytes encrypted and decrypted x seconds per byte)
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tde.algorithms import Algorithm
from tde.page.codec import PAGE_SIZE
from tde_bench.configurations import Configuration
from tde_bench.errors import BenchError
from tde_bench.measure.observer import Observer
from tde_bench.measure.result import BenchmarkResult
from tde_bench.measure.statistics import median_or_none

# A page of PostgreSQL, which is also the data unit of the cipher.
_UNIT_BYTES = PAGE_SIZE
_SECONDS = 1
_RESULT = re.compile(r"^\+F:\d+:[^:]*:([\d.]+)", re.MULTILINE)
_DEADLINE_SECONDS = 60
# Of the speed with AES instructions; without them a tenth of it is usual.
_SOFTWARE_LIMIT = 0.7


@dataclass(frozen=True)
class CipherSpeed:
    """Bytes per CPU second of one core, of a configuration's cipher, at one moment of the run."""

    round: int
    configuration: str
    encrypt_bytes_per_second: float
    decrypt_bytes_per_second: float


def find_openssl() -> Path | None:
    """Return the openssl program, None when the machine has none."""
    found = shutil.which("openssl")
    return None if found is None else Path(found)


def measure_speeds(
    configurations: Iterable[Configuration],
    round_number: int,
    result: BenchmarkResult,
    observer: Observer,
) -> list[CipherSpeed]:
    """Measure the cipher of every encrypted configuration.

    Without a usable ``openssl`` program only the limit is missing, which is a warning.
    """
    encrypted = [c for c in configurations if c.algorithm is not None]
    openssl = find_openssl()
    if openssl is None and encrypted:
        result.warn("There is no openssl program, so the limit cannot be computed.")
    if openssl is None or not encrypted:
        return []
    speeds = []
    try:
        for configuration in encrypted:
            observer.step(f"openssl speed, {configuration.label}")
            speeds.append(measure_speed(openssl, configuration, round_number))
    except BenchError as error:
        result.warn(f"The limit cannot be computed from all rounds: {error}")
    _check_software(encrypted, speeds, result)
    libraries = {c.label: str(result.facts.get(c.name, {}).get("openssl") or "") for c in encrypted}
    check_version(openssl, result, libraries)
    return speeds


def _check_software(
    configurations: Iterable[Configuration], speeds: Iterable[CipherSpeed], result: BenchmarkResult
) -> None:
    """Warn when OpenSSL is as fast without the CPU's AES instructions as with them."""
    found = {speed.configuration: speed.encrypt_bytes_per_second for speed in speeds}
    by_kind = {(c.algorithm, c.software): found.get(c.name) for c in configurations}
    for (algorithm, software), slow in by_kind.items():
        fast = by_kind.get((algorithm, False))
        if software and slow and fast and slow > _SOFTWARE_LIMIT * fast:
            result.warn(
                "OpenSSL is nearly as fast without the CPU's AES instructions as with them: this "
                "CPU has none, or they could not be switched off. Do not trust the software bars."
            )


def check_version(openssl: Path, result: BenchmarkResult, libraries: Mapping[str, str]) -> None:
    """Note the program's version; warn when what it is the limit of uses another OpenSSL.

    Args:
        libraries: the version text of the libcrypto of each that encrypts, by its label.
    """
    completed = subprocess.run([openssl, "version"], capture_output=True, text=True, check=False)
    result.metadata["openssl_program"] = program = completed.stdout.strip()
    # "OpenSSL 3.0.17 1 Jul 2025 (Library: ...)": the date may differ between builds of a version.
    version = program.split()[:2]
    for label, library in libraries.items():
        if version and library and library.split()[:2] != version:
            result.warn(f"{label} uses {library}, but the limit was measured with {program}.")


def measure_speed(openssl: Path, configuration: Configuration, round_number: int) -> CipherSpeed:
    """Run ``openssl speed`` for one second in each direction, as the server would encrypt.

    Raises:
        BenchError: when it fails or prints no result.
    """
    algorithm = configuration.algorithm
    if algorithm is None:
        raise ValueError(f"{configuration.label} has no cipher")
    environment = {**os.environ, **configuration.environment}
    return CipherSpeed(
        round_number,
        configuration.name,
        _run(openssl, algorithm, environment, decrypt=False),
        _run(openssl, algorithm, environment, decrypt=True),
    )


def _run(
    openssl: Path, algorithm: Algorithm, environment: dict[str, str], *, decrypt: bool
) -> float:
    """Return bytes per CPU second."""
    command: list[str | Path] = [openssl, "speed", "-mr", "-evp", algorithm.label.lower()]
    command += ["-bytes", str(_UNIT_BYTES), "-seconds", str(_SECONDS)]
    if decrypt:
        command.append("-decrypt")
    try:
        completed = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=environment,
            timeout=_DEADLINE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"openssl speed did not end within {_DEADLINE_SECONDS} s") from error
    found = _RESULT.search(completed.stdout)
    if completed.returncode != 0 or found is None:
        raise BenchError(
            f"openssl speed gave no result (status {completed.returncode}):\n"
            f"{(completed.stdout + completed.stderr).strip()}"
        )
    return float(found[1])


def cipher_seconds(
    speeds: Iterable[CipherSpeed],
    configuration: str,
    encrypted: float | None,
    decrypted: float | None,
) -> float | None:
    """Return the CPU seconds that the cipher alone needs for these bytes.

    The median of all measurements of the run is used: one of them can be disturbed, and the
    cipher does not change. None when bytes or speed are not known.
    """
    own = [speed for speed in speeds if speed.configuration == configuration]
    encrypt = median_or_none(speed.encrypt_bytes_per_second for speed in own)
    decrypt = median_or_none(speed.decrypt_bytes_per_second for speed in own)
    if not encrypt or not decrypt or encrypted is None or decrypted is None:
        return None
    return encrypted / encrypt + decrypted / decrypt
