"""Two libcryptos side by side: each has its own limit, and the target is about the fastest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tde_bench.measure.libraries import SECOND
from tde_bench.pages import chart
from tde_bench.pages.results import BARE, MEMCPY, OPENSSL, PagesResult, PagesRun, PagesSummary
from tde_bench.pages.tables import pages_table
from tde_bench.pages.verdicts import verdicts
from tde_bench.report.reading import read_result

from tde.page.libcrypto import SYSTEM

LIBRARIES = {SYSTEM: "OpenSSL 3.0.19 27 Jan 2026", SECOND: "OpenSSL 3.5.8 25 Aug 2026"}
# Bytes per second: the second library is three times as fast.
LIMITS = {SYSTEM: 1000, SECOND: 3000}


def _run(
    number: int, backend: str, speed: float, pages: int, library: str = "", place: str = "in place"
) -> PagesRun:
    return PagesRun(
        *(backend, library, "AES-256-XTS", "encrypt", pages, place, 1),
        *(number, 0, round(speed * 1000), 1.0, 1000.0),
    )


def _result(
    parts: dict[str, float],
    libraries: dict[str, str] = LIBRARIES,
    peer: float = 500,
    rounds: int = 6,
) -> PagesResult:
    """Return a run in which tde reaches these parts of the limits of its libraries."""
    names = ("tde", "cryptography", OPENSSL, MEMCPY)
    result = PagesResult(
        parameters={"seed": 1},
        labels={name: {OPENSSL: "openssl speed"}.get(name, name) for name in names},
        libraries=dict(libraries),
        status="complete",
    )
    for number in range(rounds):
        for name in libraries:
            result.runs.append(_run(number, OPENSSL, LIMITS[name], 1, name))
            for pages in (1, 128, 2048, 8192):
                # What is larger than the target is about is slow, and so is what is smaller.
                part = parts[name] if pages in (128, 2048) else 0.5
                result.runs.append(_run(number, "tde", part * LIMITS[name], pages, name))
        for pages in (1, 128):
            result.runs.append(_run(number, "cryptography", peer, pages))
    return result


def _line(result: PagesResult, start: str) -> str:
    (line,) = (text for text in verdicts(result, result.summaries()) if text.startswith(start))
    return line


def _of(result: PagesResult, library: str, pages: int) -> PagesSummary:
    (found,) = (
        s for s in result.summaries() if (s.backend, s.library, s.pages) == ("tde", library, pages)
    )
    return found


def test_a_fraction_is_of_the_same_library() -> None:
    result = _result({SYSTEM: 0.99, SECOND: 0.90})
    system, second = (_of(result, name, 128) for name in (SYSTEM, SECOND))
    for summary, fraction, of_fastest in ((system, 0.99, 0.33), (second, 0.90, 0.90)):
        assert summary.fraction is not None
        assert summary.fraction.median == pytest.approx(fraction)
        assert summary.of_fastest is not None
        assert summary.of_fastest.median == pytest.approx(of_fastest)
    # Peers are seen beside the library that tde uses.
    peer = next(s for s in result.summaries() if s.backend == "cryptography")
    assert peer.fraction is not None
    assert peer.fraction.median == pytest.approx(1 / 6)
    assert peer.of_fastest is None


@pytest.mark.parametrize(
    ("part", "rounds", "answer"),
    [(0.96, 6, "met"), (0.94, 6, "missed"), (0.96, 5, "undecided"), (0.94, 5, "undecided")],
)
def test_the_target_is_answered(part: float, rounds: int, answer: str) -> None:
    line = _line(_result({SYSTEM: 0.99, SECOND: part}, rounds=rounds), "Target, ")
    assert "AES-256-XTS encrypt, 1 to 16 MiB in place" in line
    assert f"OpenSSL 3.5.8, on as many pages: {answer}. The least is {part:.3f} (" in line


def test_the_target_is_about_the_cipher_on_as_many_pages() -> None:
    """One hot page is faster than memory allows, whoever asks for it."""
    result = _result({SYSTEM: 0.99, SECOND: 0.90})
    for number in range(6):
        for name in LIBRARIES:
            for pages, part in ((128, 0.92), (2048, 0.93)):
                result.runs.append(_run(number, BARE, part * LIMITS[name], pages, name))
    assert ": met. The least is 0.968 (" in _line(result, "Target, ")
    found = _of(result, SECOND, 128)
    assert found.fraction is not None
    assert found.of_fastest is not None
    assert found.fraction.median == pytest.approx(0.90)
    assert found.of_fastest.median == pytest.approx(0.90 / 0.92)
    # The slow library's own would be met by anybody.
    system = _of(result, SYSTEM, 128)
    assert system.of_fastest is not None
    assert system.of_fastest.median == pytest.approx(0.99 * 1000 / (0.92 * 3000))


def test_an_interval_that_holds_the_target_decides_nothing() -> None:
    result = _result({SYSTEM: 0.99, SECOND: 0.94})
    better = [r for r in result.runs if r.backend == "tde" and r.library == SECOND]
    for run in better:
        if run.round == 0:
            at = result.runs.index(run)
            result.runs[at] = PagesRun(**{**vars(run), "bytes": round(run.bytes * 1.05)})
    assert ": undecided. " in _line(result, "Target, ")


def test_a_library_that_is_not_the_fastest_misses_the_target() -> None:
    """The attack: 0.99 of a slow library looked like a target that is met."""
    reverse = {SECOND: LIBRARIES[SECOND], SYSTEM: LIBRARIES[SYSTEM]}  # tde uses the last one.
    line = _line(_result({SYSTEM: 0.99, SECOND: 0.99}, reverse), "Target, ")
    assert "OpenSSL 3.5.8, on as many pages: missed. The least is 0.330" in line


@pytest.mark.parametrize("missing", LIMITS)
def test_without_the_limit_of_each_the_target_is_not_answered(missing: str) -> None:
    """The attack: work of the fast library looked like 2.9 of the only limit that was known."""
    result = _result({SYSTEM: 0.99, SECOND: 0.96})
    result.runs = [r for r in result.runs if (r.backend, r.library) != (OPENSSL, missing)]
    expected = f"Target: not answered, the limit of {LIBRARIES[missing]} is not known."
    assert _line(result, "Target") == expected
    assert _of(result, missing, 128).fraction is None


def test_where_there_is_one_library_nothing_is_said_of_two() -> None:
    result = _result({SYSTEM: 0.97}, {SYSTEM: LIBRARIES[SYSTEM]})
    line = _line(result, "Target, ")
    assert "0.95 of the one libcrypto measured, OpenSSL 3.0.19, on as many pages: met." in line
    assert "The least is 0.970" in line
    assert result.label_of("tde", SYSTEM) == "tde"
    labels = {str(line.get_label()) for line in chart.draw(result).axes[0].lines}
    assert labels == {"tde", "cryptography", "openssl speed"}


def test_tables_and_charts_show_both() -> None:
    result = _result({SYSTEM: 0.99, SECOND: 0.96})
    table = pages_table(result, "AES-256-XTS", result.summaries())
    first = [str(cell) for cell in table.columns[0].cells]
    # The one that tde uses stands first.
    assert list(dict.fromkeys(first)) == [
        "openssl speed 3.5.8",
        "openssl speed 3.0.19",
        "tde 3.5.8",
        "tde 3.0.19",
        "cryptography",
    ]
    lines = {str(line.get_label()): line for line in chart.draw(result).axes[0].lines}
    assert set(lines) == set(first)
    assert lines["tde 3.5.8"].get_linestyle() == "-"
    assert lines["tde 3.0.19"].get_linestyle() == ":"
    assert lines["openssl speed 3.0.19"].get_linestyle() == ":"


@pytest.mark.parametrize(
    ("peer", "words"),
    [
        (500, "Ahead of cryptography in all 2 cases from 1 page per call up: 3.00 times as fast"),
        (2000, "Not ahead of cryptography in 1 of 2 cases from 1 page per call up: 0.75 times"),
    ],
)
def test_peers_are_compared_from_one_page_up(peer: float, words: str) -> None:
    line = _line(_result({SYSTEM: 0.99, SECOND: 0.96}, peer=peer), words)
    assert line.endswith("AES-256-XTS encrypt, 1 page, in place.")


def test_results_are_read_back_and_those_of_version_1_as_well(tmp_path: Path) -> None:
    result = _result({SYSTEM: 0.99, SECOND: 0.96})
    file = tmp_path / "pages.json"
    file.write_text(json.dumps(result.to_json()))
    read = read_result(file)
    assert isinstance(read, PagesResult)
    assert (read.runs, read.libraries) == (result.runs, result.libraries)
    old = _result({SYSTEM: 0.97}, {SYSTEM: LIBRARIES[SYSTEM]})
    old.metadata["openssl"] = LIBRARIES[SYSTEM]
    document = old.to_json()
    document["schema"]["version"] = 1
    del document["libraries"]
    for run in document["runs"]:
        del run["library"]
    file.write_text(json.dumps(document))
    read = read_result(file)
    assert isinstance(read, PagesResult)
    assert (read.runs, read.libraries) == (old.runs, old.libraries)
