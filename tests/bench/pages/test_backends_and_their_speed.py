"""``tde-bench pages``: backends do the same work, and the summary pairs what belongs together."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tde_bench import cli
from tde_bench.errors import BenchError
from tde_bench.measure.libraries import known_libraries
from tde_bench.pages import benchmark
from tde_bench.pages.backends import PAGE_BYTES, Backend, Pages, Work, all_backends
from tde_bench.pages.benchmark import random_pages, require_same_bytes
from tde_bench.pages.results import BARE, MEMCPY, OPENSSL, PagesResult, PagesRun
from typer.testing import CliRunner

from tde import Algorithm, _core
from tde.page.libcrypto import SYSTEM

KEYS = {Algorithm.AES128: 32, Algorithm.AES256: 64}


@pytest.mark.parametrize("algorithm", list(Algorithm), ids=lambda algorithm: algorithm.name)
@pytest.mark.parametrize("backend", all_backends(), ids=lambda backend: backend.name)
def test_every_backend_encrypts_each_page_under_its_own_tweak(
    backend: Backend, algorithm: Algorithm
) -> None:
    if (why := backend.missing()) is not None:
        pytest.skip(why)  # python-mbedtls has no wheel for each Python.
    pages = random_pages(3)
    out = np.empty_like(pages)
    backend.prepare(algorithm, pages, out, decrypt=False, threads=1)()
    identity = (_core.CLASS_RELATION, 5, 16384, 0, 0)
    for block in range(3):
        at = slice(block * PAGE_BYTES, (block + 1) * PAGE_BYTES)
        tweak = _core.tweak(identity, block)
        key = bytes(range(KEYS[algorithm]))
        expected = _core.xts(algorithm.value, key, tweak, pages[at].tobytes(), True)
        assert out[at].tobytes() == expected


def test_a_backend_that_does_something_else_is_not_measured() -> None:
    class Copy(Backend):
        name = label = "copy"

        def missing(self) -> str | None:
            return None

        def prepare(
            self, algorithm: Algorithm, pages: Pages, out: Pages, *, decrypt: bool, threads: int
        ) -> Work:
            return lambda: np.copyto(out, pages)

    with pytest.raises(BenchError, match="copy does not encrypt as the product does"):
        require_same_bytes([all_backends()[0], Copy()], Algorithm.AES128)


def _result(runs: list[PagesRun]) -> PagesResult:
    labels = {"tde": "tde._core", OPENSSL: "openssl speed", MEMCPY: "memcpy"}
    return PagesResult(parameters={"seed": 1}, labels=labels, runs=runs)


def _run(
    number: int,
    backend: str,
    moved: int,
    seconds: float | None,
    threads: int,
    library: str = SYSTEM,
) -> PagesRun:
    return PagesRun(
        backend=backend,
        library=library if backend in ("tde", OPENSSL) else "",
        algorithm="AES-256-XTS",
        direction="encrypt",
        pages=1 if backend == OPENSSL else 128,
        place="in place",
        threads=threads,
        round=number,
        position=0,
        bytes=moved,
        seconds=seconds,
        cpu_seconds=1.0,
    )


def test_fraction_and_scaling_are_paired_within_rounds() -> None:
    runs = []
    # The machine is twice as fast in every other round, which must cancel.
    for number, speed in enumerate([100, 200, 100, 200, 100, 200]):
        runs.append(_run(number, OPENSSL, speed, None, 1))
        runs.append(_run(number, "tde", speed * 96 // 100, 2.0, 1))
        runs.append(_run(number, "tde", speed * 96 // 100, 1.0, 2))
    openssl, alone, shared = _result(runs).summaries()
    assert openssl.fraction is None
    assert alone.fraction is not None
    assert (alone.fraction.low, alone.fraction.high) == (0.96, 0.96)
    assert alone.scaling is None
    assert shared.scaling is not None
    assert shared.scaling.median == 2.0
    assert alone.microseconds_per_page == pytest.approx(1e6 * 8192 / 144)


def _invoke(tmp_path: Path, *more: str) -> tuple[int, str, Path]:
    file = tmp_path / "pages.json"
    arguments = ["pages", "--aes=256", "--pages=2", "--rounds=2", "--sample=0.002"]
    done = CliRunner().invoke(cli.app, [*arguments, f"--json={file}", *more])
    return done.exit_code, done.output, file


def test_command(tmp_path: Path) -> None:
    chart, table = tmp_path / "pages.png", tmp_path / "pages.csv"
    code, output, file = _invoke(tmp_path, f"--chart={chart}", f"--csv={table}")
    assert code == 0, output
    document = json.loads(file.read_text())
    assert document["schema"] == {"name": "tde-bench/pages", "version": 2}
    assert document["status"] == "complete"
    measured = {run["backend"] for run in document["runs"]}
    usable = {one.name for one in all_backends() if one.missing() is None}
    assert measured == usable | {OPENSSL, BARE, MEMCPY}
    own = [s for s in document["summary"] if s["backend"] == "tde" and s["threads"] == 1]
    assert all(0 < summary["fraction"]["median"] < 2 for summary in own)
    libraries = {library["name"] for library in document["libraries"]}
    for name in ("tde", OPENSSL, BARE):
        assert {run["library"] for run in document["runs"] if run["backend"] == name} == libraries
    assert libraries == set(known_libraries())
    assert "Target, AES-256-XTS" not in output  # Two pages are less than 1 MiB.
    assert "head of cryptography in" in output
    assert chart.stat().st_size > 1000
    assert len(table.read_text().splitlines()) == 1 + len(document["runs"])


def test_interruption_keeps_the_rounds_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original: Callable[..., tuple[int, float, float]] = benchmark.time_work
    calls = 0

    def interrupted(
        work: Work, size: int, seconds: float, *, threads: int = 1
    ) -> tuple[int, float, float]:
        nonlocal calls
        calls += 1
        # One batch size has one case of memcpy and eight of tde per round; four more with a second
        # library.
        if calls == 9 * 1 + 4 * (len(known_libraries()) - 1) + 3:
            raise KeyboardInterrupt
        return original(work, size, seconds, threads=threads)

    monkeypatch.setattr(benchmark, "time_work", interrupted)
    code, output, file = _invoke(tmp_path, "--backend=tde")
    assert code == 130, output
    document = json.loads(file.read_text())
    assert document["status"] == "interrupted"
    assert {run["round"] for run in document["runs"]} == {0, 1}


def test_unknown_backend_is_refused() -> None:
    done = CliRunner().invoke(cli.app, ["pages", "--backend", "rot13"])
    assert isinstance(done.exception, BenchError)
    assert "Choose of tde, cryptography" in (done.exception.remedy or "")
