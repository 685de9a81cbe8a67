"""Two rounds give no interval of 95 %: tables, charts and pages call what they give a range."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from rich.console import Console
from tde_bench.batch import chart as batch_chart, tables as batch_tables
from tde_bench.batch.results import BatchResult, BatchRun
from tde_bench.measure.statistics import Estimate
from tde_bench.oltp import chart as oltp_chart, tables as oltp_tables
from tde_bench.oltp.sweep_chart import draw_sweep
from tde_bench.pages import chart as pages_chart, tables as pages_tables
from tde_bench.pages.results import MEMCPY, OPENSSL, PagesResult, PagesRun
from tde_bench.present.formats import spread_name
from tde_bench.report.page import render_html, render_markdown

from tests.bench.runs import make_result

FEW, ENOUGH = 2, 6
BOTH = pytest.mark.parametrize("rounds", [FEW, ENOUGH])


def words_of(figure: Figure) -> str:
    return " ".join(text.get_text() for text in figure.findobj(Text) if isinstance(text, Text))


def require_name(text: str, rounds: int) -> None:
    """Check that the bounds are called what they are, and nothing else."""
    text = " ".join(text.split())
    assert ("range" in text) == (rounds < ENOUGH)
    assert ("95 % interval" in text) == (rounds >= ENOUGH)


def batch_of(rounds: int) -> BatchResult:
    seconds = {"none": 10.0, "aes256": 10.5}
    return BatchResult(
        parameters={"seed": 1, "scale": 5, "rounds": rounds},
        labels={name: name for name in seconds},
        phases={"load": "COPY load"},
        runs=[
            BatchRun(number, 0, name, "load", "", value, 1.0, 0.0, None, None, *[None] * 6, 0.0)
            for number in range(rounds)
            for name, value in seconds.items()
        ],
        status="complete",
    )


def pages_of(rounds: int) -> PagesResult:
    def run(number: int, backend: str, threads: int) -> PagesRun:
        seconds = None if backend == OPENSSL else 0.5 / threads
        library = "system" if backend in (OPENSSL, "tde") else ""
        case = (backend, library, "AES-256-XTS", "encrypt", 128, "in place", threads)
        return PagesRun(*case, number, 0, 1 << 30, seconds, 0.4)

    cases = [(OPENSSL, 1), (MEMCPY, 1), ("tde", 1), ("tde", 2), ("cryptography", 1)]
    return PagesResult(
        parameters={"seed": 1, "rounds": rounds},
        labels={OPENSSL: "openssl speed", MEMCPY: "memcpy", "tde": "tde", "cryptography": "c"},
        runs=[run(number, *case) for number in range(rounds) for case in cases],
        status="complete",
    )


def printed(write: object, result: object) -> str:
    output = io.StringIO()
    write(result, Console(file=output, width=200))  # type: ignore[operator]
    return output.getvalue()


def estimates(counts: Sequence[int]) -> Iterator[Estimate | None]:
    yield None
    yield from (Estimate(1.0, 0.9, 1.1, count) for count in counts)


@pytest.mark.parametrize(
    ("counts", "name"),
    [
        ([], "95 % interval"),
        ([6, 12], "95 % interval"),
        ([1, 2, 5], "range"),
        ([5, 6], "range or 95 % interval"),
    ],
)
def test_the_number_of_rounds_decides_the_name(counts: Sequence[int], name: str) -> None:
    assert spread_name(estimates(counts)) == name


@BOTH
def test_tables_say_which_it_is(rounds: int) -> None:
    oltp = make_result([327.0, 320.0, *[321.0] * 4][:rounds], [319.0] * rounds)
    require_name(printed(oltp_tables.print_report, oltp), rounds)
    require_name(printed(batch_tables.print_report, batch_of(rounds)), rounds)
    require_name(printed(pages_tables.print_report, pages_of(rounds)), rounds)


@BOTH
def test_charts_say_which_it_is(rounds: int) -> None:
    oltp = make_result([327.0] * rounds, [319.0] * rounds)
    require_name(words_of(oltp_chart.draw(oltp, oltp.summaries())), rounds)
    oltp.runs = [replace(run, scale=1, clients=4) for run in oltp.runs]
    require_name(words_of(draw_sweep(oltp)), rounds)
    batch = batch_of(rounds)
    require_name(words_of(batch_chart.draw(batch, batch.summaries())), rounds)


@BOTH
def test_pages_say_which_it_is(rounds: int) -> None:
    oltp = make_result([327.0] * rounds, [319.0] * rounds)
    oltp.parameters["workload"] = "tpcb"
    for render in (render_html, render_markdown):
        page = " ".join(render([("oltp.json", oltp), ("batch.json", batch_of(rounds))]).split())
        # The words at the top say what both are.
        _, _, rest = page.partition("a range is from the smallest to the largest ratio.")
        require_name(rest, rounds)
        assert "PowerGres Plus is a commercial PostgreSQL" in rest


def test_cpu_time_and_the_clock_have_axes_of_their_own() -> None:
    cpu, clock = pages_chart.draw(pages_of(ENOUGH)).axes
    assert "CPU time" in cpu.get_title()
    assert "by the clock" in clock.get_title()
    assert {str(line.get_label()) for line in cpu.lines} == {"tde", "c", "openssl speed", "memcpy"}
    assert {str(line.get_label()) for line in clock.lines} == {"tde, 1 thread", "tde, 2 threads"}
    one, two = (float(line.get_ydata()[0]) for line in clock.lines)  # type: ignore[index,arg-type]
    assert two == pytest.approx(2 * one)


def test_one_thread_needs_no_clock() -> None:
    result = pages_of(ENOUGH)
    result.runs = [run for run in result.runs if run.threads == 1]
    assert len(pages_chart.draw(result).axes) == 1
