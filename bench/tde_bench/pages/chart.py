"""The chart of the page cipher: throughput over batch size, below its limits."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from tde_bench.pages.results import MEMCPY, OPENSSL, PagesResult, PagesSummary
from tde_bench.present.charts import write_figure
from tde_bench.present.palette import GREY, INK, colours, plain_frame


def write_chart(result: PagesResult, path: Path) -> None:
    """Draw encryption in place, one panel per algorithm; PNG or SVG."""
    write_figure(draw(result), path)


def draw(result: PagesResult) -> Figure:
    """Return the figure; results must have runs."""
    summaries = [s for s in result.summaries() if s.direction == "encrypt"]
    algorithms = list(dict.fromkeys(summary.algorithm for summary in summaries))
    layout = ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.12, wspace=0.06)
    figure = Figure(figsize=(1.0 + 5.0 * len(algorithms), 5.0), layout=layout)
    panels = figure.subplots(1, len(algorithms), squeeze=False, sharey=True)[0]
    for axes, algorithm in zip(panels, algorithms, strict=True):
        _panel(axes, result, [s for s in summaries if s.algorithm == algorithm])
        axes.set_title(algorithm, fontsize=11, color=INK)
    panels[0].set_ylabel("GB/s (higher is better)", fontsize=9, color=GREY)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    machine = result.metadata.get("cpu", {})
    figure.suptitle(
        f"Page cipher in place, {machine.get('model', 'unknown CPU')}, "
        f"{machine.get('count', '?')} CPUs",
        fontsize=13,
        fontweight="bold",
        color=INK,
    )
    return figure


def _panel(axes: Axes, result: PagesResult, summaries: list[PagesSummary]) -> None:
    shown = [name for name in result.labels if name not in (OPENSSL, MEMCPY)]
    for name, colour in zip(shown, colours(shown), strict=True):
        own = [s for s in summaries if s.backend == name and s.place == "in place"]
        for threads in sorted({summary.threads for summary in own}):
            line = [summary for summary in own if summary.threads == threads]
            extra = "" if threads == 1 else f", {threads} threads (elapsed)"
            axes.plot(
                [summary.pages for summary in line],
                [summary.bytes_per_second / 1e9 for summary in line],
                marker="o",
                color=colour,
                linestyle="-" if threads == 1 else ":",
                label=result.labels[name] + extra,
            )
    for summary in summaries:
        if summary.backend == OPENSSL:
            axes.axhline(
                summary.bytes_per_second / 1e9, color=INK, linewidth=1, label="openssl speed"
            )
    copies = [summary for summary in summaries if summary.backend == MEMCPY]
    axes.plot(
        [summary.pages for summary in copies],
        [summary.bytes_per_second / 1e9 for summary in copies],
        color=GREY,
        linestyle="--",
        linewidth=1,
        label="memcpy",
    )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set_xlabel("pages per batch", fontsize=9, color=GREY)
    plain_frame(axes)
    axes.tick_params(axis="x", labelsize=9, labelcolor=GREY)
