"""How near PageCipher comes to ``openssl speed`` on one core.

Run it alone and without xdist: ``pytest tests/bench/pages/test_page_speed.py -p no:xdist -s``.
It prints what it measures and asserts no timing: that would fail on a busy machine.  With
xdist, which disables benchmarks, it only checks that the result can be decrypted.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from tde_bench.configurations import Configuration
from tde_bench.measure.cipher_speed import measure_speed
from tde_bench.measure.libraries import find_openssl, speed_program, used_library

from tde import Algorithm, PageCipher, RelationIdentity

PAGES = 512  # 4 MiB
SIZE = PAGES * 8192
IDENTITY = RelationIdentity(5, 16384)
ROUNDS = 5
OPENSSL = find_openssl()


def openssl_speed(algorithm: Algorithm, direction: str) -> float:
    """Return bytes per second of ``openssl speed``, which works on one hot 8 KiB buffer."""
    assert OPENSSL is not None
    configuration = Configuration("openssl", "openssl speed", algorithm, software=None)
    with speed_program(OPENSSL, used_library()) as program:
        speed = measure_speed(program, configuration, 0)
    decrypts = direction == "decrypt"
    return speed.decrypt_bytes_per_second if decrypts else speed.encrypt_bytes_per_second


def own_speed(work: Callable[[], object]) -> float:
    """Return bytes per second of CPU time over one second.

    ``openssl speed`` counts CPU time as well; wall time would compare what the two lost to
    other programs on the machine.
    """
    count, start = 0, time.thread_time()
    while (elapsed := time.thread_time() - start) < 1:
        work()
        count += 1
    return count * SIZE / elapsed


def fraction_of_openssl(algorithm: Algorithm, direction: str, work: Callable[[], object]) -> float:
    """Return the median of paired, interleaved ratios, which a drifting clock does not skew."""
    pairs = ((own_speed(work), openssl_speed(algorithm, direction)) for _ in range(ROUNDS))
    return statistics.median(own / limit for own, limit in pairs)


@pytest.mark.parametrize("algorithm", list(Algorithm), ids=lambda algorithm: algorithm.name)
@pytest.mark.parametrize("place", ["out", "in place"])
@pytest.mark.parametrize("direction", ["encrypt", "decrypt"])
def test_speed_of_4_mib(
    benchmark: BenchmarkFixture,
    capsys: pytest.CaptureFixture[str],
    algorithm: Algorithm,
    place: str,
    direction: str,
) -> None:
    cipher = PageCipher(bytes(range(algorithm.key_bytes)), algorithm)
    pages = np.frombuffer(np.random.default_rng(1).bytes(SIZE), np.uint8).copy()
    plain = pages.copy()
    out = np.empty_like(pages) if place == "out" else pages
    process = cipher.encrypt_pages if direction == "encrypt" else cipher.decrypt_pages
    undo = cipher.decrypt_pages if direction == "encrypt" else cipher.encrypt_pages

    def work() -> None:
        process(pages, out, identity=IDENTITY)

    work()
    assert undo(out, identity=IDENTITY) == plain.tobytes()
    if benchmark.disabled:
        benchmark(work)
        return
    benchmark.pedantic(work, rounds=200, warmup_rounds=20)  # type: ignore[no-untyped-call]
    if OPENSSL is not None:
        fraction = fraction_of_openssl(algorithm, direction, work)
        benchmark.extra_info["fraction_of_openssl_speed"] = fraction
        with capsys.disabled():
            print(f"\n{direction} {place} {algorithm.label}: {fraction:.3f} of openssl speed")
