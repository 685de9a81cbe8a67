"""``tde-bench report``: one page that needs nothing else, from any set of results."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from tde_bench import cli
from tde_bench.batch.results import BatchResult, BatchRun
from tde_bench.check.quantities import CheckRun
from tde_bench.check.results import CheckResult
from tde_bench.check.verdict import Comparison
from tde_bench.compare.results import CompareResult
from tde_bench.errors import BenchError
from tde_bench.measure.result_files import Document, write_json
from tde_bench.measure.statistics import Estimate
from tde_bench.oltp.results import Slice
from tde_bench.pages.results import PagesResult, PagesRun
from tde_bench.report.page import read_all, render_html, render_markdown
from tde_bench.report.reading import read_result
from typer.testing import CliRunner

from tests.bench.runs import make_result

TPS = [1000.0, 1010.0, 990.0, 1000.0, 1005.0, 995.0]


class Page(HTMLParser):
    """Collects what a browser would load, and what a reader would read."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def _batch() -> BatchResult:
    seconds = {"none": 10.0, "aes256-software": 13.0, "aes256": 10.5}
    unknown = [None] * 6
    return BatchResult(
        parameters={"seed": 1, "scale": 5, "rounds": 6},
        labels={name: name for name in seconds},
        phases={"load": "COPY load", "sort": "External sort"},
        runs=[
            BatchRun(number, 0, name, phase, "", value, 1.0, 0.0, None, None, *unknown, 0.0)
            for number in range(6)
            for phase in ("load", "sort")
            for name, value in seconds.items()
        ],
        status="complete",
    )


def _pages() -> PagesResult:
    return PagesResult(
        parameters={"seed": 1},
        labels={"tde": "tde._core", "openssl": "openssl speed", "memcpy": "memcpy"},
        runs=[
            PagesRun(
                *(name, "system", "AES-256-XTS", "encrypt", pages, "in place", 1),
                *(0, 0, 5 * 10**9, 1.0, 1.0),
            )
            for name, pages in (("openssl", 1), ("tde", 1), ("tde", 128))
        ],
        status="complete",
    )


def _check() -> CheckResult:
    return CheckResult(
        parameters={"seed": 1},
        labels={"none": "no encryption"},
        units={"scan": ("scan ÷ plain", "row")},
        runs=[CheckRun(number, "scan", 1.25, 1.0, 1.0, 1.0) for number in range(7)],
        status="complete",
        comparison=Comparison({"scan": Estimate(1.0, 0.9, 1.1, 7)}, 0.1),
    )


def _compare() -> CompareResult:
    shared = make_result(TPS, [0.98 * value for value in TPS])
    shared.parameters["workload"] = "tpcb"
    return CompareResult(
        **vars(shared), unavailable={"luks": ("LUKS", "no device mapper")}, notes={}
    )


def _files(tmp_path: Path, **documents: Document) -> list[Path]:
    for name, document in documents.items():
        write_json(document, tmp_path / f"{name}.json")
    return [tmp_path / f"{name}.json" for name in documents]


def _all(tmp_path: Path) -> list[Path]:
    oltp = make_result(TPS, [0.98 * value for value in TPS])
    oltp.parameters["workload"] = "tpcb"
    oltp.labels["aes256"] = "<script>alert(1)</script>"
    oltp.runs[0] = replace(oltp.runs[0], slices=(Slice(100, 99.0, 2.0, 0.1, 0, 0),))
    oltp.warn("The machine was busy & <b>hot</b>.")
    return _files(
        tmp_path,
        oltp=oltp,
        batch=_batch(),
        pages=_pages(),
        check=_check(),
        compare=_compare(),
    )


def test_published_charts_stand_beside_the_run_that_shows_most_of_them() -> None:
    short = make_result(TPS[:2], [0.5 * value for value in TPS[:2]])
    whole = make_result(TPS, [0.98 * value for value in TPS])
    stopped = make_result([*TPS, *TPS], [0.7 * value for value in [*TPS, *TPS]])
    stopped.status = "interrupted"
    existing = make_result(TPS, [0.6 * value for value in TPS])
    existing.labels = {"aes256": "a server", "none": "another"}
    results = [short, existing, stopped, whole]
    for result in results:
        result.parameters["workload"] = "tpcb"
    for order in (results, results[::-1]):
        text = render_markdown([(f"{number}.json", result) for number, result in enumerate(order)])
        assert "no encryption 1.000; AES-256 0.980" in text


def test_page_is_self_contained_and_escaped(tmp_path: Path) -> None:
    text = render_html(read_all(_all(tmp_path)))
    page = Page(text)
    assert page.loaded
    assert all(source.startswith("data:image/svg+xml;base64,") for source in page.loaded)
    assert "url(" not in text
    assert "@import" not in text
    assert not {"script", "link", "iframe", "b"} & set(page.tags)
    read = " ".join(page.texts)
    for expected in (
        "<script>alert(1)</script>",
        "The machine was busy & <b>hot</b>.",
        "approximate",
        "Batch: elapsed time, measured",
        "External sort",
        "tde._core",
        "The check failed: scan ÷ plain.",
        "REGRESSION: scan ÷ plain: 1.250 of its reference",
        "LUKS: not measured: no device mapper.",
        "Raw runs (36)",
    ):
        assert expected in read, expected
    # Each has as much to say as a page has room for.
    assert "slices" not in page.texts


def test_same_results_give_the_same_page(tmp_path: Path) -> None:
    results = read_all(_all(tmp_path))
    assert render_html(results) == render_html(results)


def test_markdown_has_every_table(tmp_path: Path) -> None:
    text = render_markdown(read_all(_all(tmp_path)))
    lines = text.splitlines()
    heads = [number for number, line in enumerate(lines) if line.startswith("|---|")]
    assert len(heads) == 7
    for head in heads:
        width = lines[head].count("|")
        assert lines[head - 1].count("|") == lines[head + 1].count("|") == width
    assert "| LUKS | not measured | – |" in text
    assert "elapsed time, published" in text
    assert "≈ 1.3" in text


def test_results_survive_being_read_again(tmp_path: Path) -> None:
    for path in _all(tmp_path):
        before: dict[str, Any] = json.loads(path.read_text())
        after = json.loads(json.dumps(read_result(path).to_json()))
        assert after == before, path.name


def test_interrupted_run_without_any_measurement(tmp_path: Path) -> None:
    result = make_result([], [])
    result.status = "interrupted"
    text = render_html(read_all(_files(tmp_path, oltp=result)))
    assert "Nothing was measured." in text
    assert "interrupted" in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read"),
        ("[]", "is not a result"),
        ('{"schema": {"name": "tde-bench/oltp", "version": 99}}', "holds tde-bench/oltp 99"),
        ('{"schema": {"name": "tde-bench/batch", "version": 1}}', "is not a whole result"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "other.json"
    file.write_text(text)
    with pytest.raises(BenchError, match=message):
        read_result(file)


def test_command(tmp_path: Path) -> None:
    html, markdown = tmp_path / "r.html", tmp_path / "r.md"
    files = [str(path) for path in _all(tmp_path)]
    arguments = ["report", *files, f"--html={html}", f"--markdown={markdown}"]
    done = CliRunner().invoke(cli.app, arguments)
    assert done.exit_code == 0, done.output
    assert html.read_text().startswith("<!DOCTYPE html>")
    assert markdown.read_text().startswith("# ")
    nothing = CliRunner().invoke(cli.app, ["report", *files])
    assert isinstance(nothing.exception, BenchError)
