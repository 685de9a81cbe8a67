"""The speed of the cipher itself: ``openssl speed``, measured in the same run.

What encryption must cost at the least is the bytes that go through the cipher times this many
seconds per byte. How much more a server pays is the *limit* that results report:

    added CPU seconds / (bytes encrypted and decrypted x seconds per byte)
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tde.algorithms import Algorithm
from tde.page.codec import PAGE_SIZE
from tde_bench.configurations import Configuration
from tde_bench.errors import BenchError
from tde_bench.measure.libraries import (
    Library,
    SpeedProgram,
    find_openssl,
    library_of_release,
    speed_program,
    used_library,
)
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


def measure_speeds(
    versions: Mapping[Configuration, str | None],
    round_number: int,
    result: BenchmarkResult,
    observer: Observer,
) -> list[CipherSpeed]:
    """Measure the cipher of every encrypted configuration, with the library of its server.

    Without a usable ``openssl`` program only the limit is missing, which is a warning.

    Args:
        versions: what the libcrypto that encrypts in each server says of itself.
    """
    encrypted = [c for c in versions if c.algorithm is not None]
    openssl = find_openssl()
    if openssl is None and encrypted:
        result.warn("There is no openssl program, so the limit cannot be computed.")
    if openssl is None or not encrypted:
        return []
    speeds = []
    for configuration in encrypted:
        observer.step(f"openssl speed, {configuration.label}")
        try:
            library = _library(versions[configuration])
            with speed_program(openssl, library) as program:
                note_program(result, program)
                speeds.append(measure_speed(program, configuration, round_number))
        except BenchError as error:
            result.warn(
                f"{configuration.label}: the limit cannot be computed from all rounds: {error}"
            )
    _check_software(encrypted, speeds, result)
    return speeds


def _library(version: str | None) -> Library:
    """Return the library of a server; a server elsewhere is taken to have that of this process."""
    return library_of_release(version) if version else used_library()


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


def note_program(result: BenchmarkResult, program: SpeedProgram) -> None:
    """Note in the metadata what the limit was measured with; several in the order of their use."""
    known = result.metadata.get("openssl_program", "")
    if program.version not in known.split("; "):
        result.metadata["openssl_program"] = f"{known}; {program.version}".removeprefix("; ")


def open_program(
    openssl: Path | None, library: Library, result: BenchmarkResult, stack: ExitStack
) -> SpeedProgram | None:
    """Make ``openssl speed`` work with a library until the stack ends, and note it.

    Returns ``None`` where that is not possible; then there is no limit, which is a warning.
    """
    if openssl is None:
        result.warn("There is no openssl program, so the limit is not known.")
        return None
    try:
        program = stack.enter_context(speed_program(openssl, library))
    except BenchError as error:
        result.warn(f"The limit of {library.version} is not known: {error}.")
        return None
    note_program(result, program)
    return program


def measure_speed(
    program: SpeedProgram, configuration: Configuration, round_number: int
) -> CipherSpeed:
    """Run ``openssl speed`` for one second in each direction, as the server would encrypt.

    Raises:
        BenchError: when it fails or prints no result.
    """
    algorithm = configuration.algorithm
    if algorithm is None:
        raise ValueError(f"{configuration.label} has no cipher")
    environment = {**os.environ, **configuration.environment, **program.environment}
    return CipherSpeed(
        round_number,
        configuration.name,
        _run(program.path, algorithm, environment, decrypt=False),
        _run(program.path, algorithm, environment, decrypt=True),
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
