"""The chart of the page cipher: throughput over batch size, below its limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from tde_bench.pages.results import LIMITS, MEMCPY, OPENSSL, PagesResult, PagesSummary
from tde_bench.present.charts import write_figure
from tde_bench.present.palette import GREY, INK, colours, plain_frame


def write_chart(result: PagesResult, path: Path) -> None:
    """Draw encryption in place, one panel per algorithm; PNG or SVG."""
    write_figure(draw(result), path)


def draw(result: PagesResult) -> Figure:
    """Return the figure; results must have runs.

    CPU time and the clock have an axis each: `openssl speed` counts only the one, and what several
    threads gain shows only on the other.
    """
    summaries = [s for s in result.summaries() if s.direction == "encrypt"]
    algorithms = list(dict.fromkeys(summary.algorithm for summary in summaries))
    rows = [_of_one_core]
    if any(summary.threads > 1 for summary in summaries):
        rows.append(_by_the_clock)
    layout = ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.12, wspace=0.06, hspace=0.08)
    size = (3.0 + 4.6 * len(algorithms), 0.8 + 4.2 * len(rows))
    figure = Figure(figsize=size, layout=layout)
    panels = figure.subplots(len(rows), len(algorithms), squeeze=False, sharey="row")
    for row, fill in zip(panels, rows, strict=True):
        for axes, algorithm in zip(row, algorithms, strict=True):
            what = fill(axes, result, [s for s in summaries if s.algorithm == algorithm])
            axes.set_title(f"{algorithm}, {what}", fontsize=11, color=INK)
            _frame(axes)
        row[0].set_ylabel("GB/s (higher is better)", fontsize=9, color=GREY)
        # Beside the panels: lines cross every corner of them.
        row[-1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=9, frameon=False)
    machine = result.metadata.get("cpu", {})
    figure.suptitle(
        f"Page cipher in place, {machine.get('model', 'unknown CPU')}, "
        f"{machine.get('count', '?')} CPUs",
        fontsize=13,
        fontweight="bold",
        color=INK,
    )
    return figure


def _of_one_core(axes: Axes, result: PagesResult, summaries: list[PagesSummary]) -> str:
    """Draw the backends on one thread below their limits, by CPU time; return what that is.

    What works with another library than tde uses is dotted.
    """
    for name, colour in _backends(result):
        for library in _libraries(result, summaries, name):
            line = _line_of(summaries, name, library, threads=1)
            speeds = [summary.bytes_per_second for summary in line]
            look = {"color": colour, "marker": "o", "linestyle": _style(result, library)}
            _draw(axes, line, speeds, result.label_of(name, library), **look)
    for library in _libraries(result, summaries, OPENSSL):
        (limit,) = (s for s in summaries if (s.backend, s.library) == (OPENSSL, library))
        axes.axhline(
            limit.bytes_per_second / 1e9,
            color=INK,
            linewidth=1,
            linestyle=_style(result, library),
            label=result.label_of(OPENSSL, library),
        )
    copies = [summary for summary in summaries if summary.backend == MEMCPY]
    speeds = [summary.bytes_per_second for summary in copies]
    _draw(axes, copies, speeds, "memcpy", color=GREY, linestyle="--", linewidth=1)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    return "per second of CPU time of one core"


def _by_the_clock(axes: Axes, result: PagesResult, summaries: list[PagesSummary]) -> str:
    """Draw one thread and several, of the backends that were measured so; return what that is."""
    for name, colour in _backends(result):
        own = [s for s in summaries if (s.backend, s.library) == (name, result.used_library)]
        numbers = sorted({summary.threads for summary in own})
        for threads in numbers if len(numbers) > 1 else ():
            known = [
                (summary, summary.elapsed_bytes_per_second)
                for summary in _line_of(summaries, name, result.used_library, threads)
                if summary.elapsed_bytes_per_second is not None
            ]
            words = f"{threads} threads" if threads > 1 else "1 thread"
            _draw(
                axes,
                [summary for summary, _ in known],
                [speed for _, speed in known],
                f"{result.labels[name]}, {words}",
                color=colour,
                marker="o",
                linestyle="-" if threads == 1 else ":",
            )
    axes.set_ylim(bottom=0)
    return "per second by the clock"


def _backends(result: PagesResult) -> list[tuple[str, str]]:
    """Return what is no limit, each with its colour."""
    names = [name for name in result.labels if name not in LIMITS]
    return list(zip(names, colours(names), strict=True))


def _libraries(result: PagesResult, summaries: list[PagesSummary], name: str) -> list[str]:
    """Return those that a backend was measured with, the one that tde uses first."""
    known = {summary.library for summary in summaries if summary.backend == name}
    return [library for library in result.library_order if library in known]


def _style(result: PagesResult, library: str) -> str:
    return "-" if library in ("", result.used_library) else ":"


def _line_of(
    summaries: list[PagesSummary], name: str, library: str, threads: int
) -> list[PagesSummary]:
    wanted = (name, library, "in place", threads)
    return [s for s in summaries if (s.backend, s.library, s.place, s.threads) == wanted]


def _draw(
    axes: Axes, line: list[PagesSummary], speeds: list[float], label: str, **look: Any
) -> None:
    if line:
        pages = [summary.pages for summary in line]
        axes.plot(pages, [speed / 1e9 for speed in speeds], label=label, **look)


def _frame(axes: Axes) -> None:
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set_xlabel("pages per batch", fontsize=9, color=GREY)
    plain_frame(axes)
    axes.tick_params(axis="x", labelsize=9, labelcolor=GREY)
