"""The charts of a batch: the bars of elapsed time, and the phases."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from tde_bench.batch.results import TOTAL, BatchResult, PhaseSummary
from tde_bench.batch.tables import estimates_of
from tde_bench.present.charts import heading, name_bars, times_shared_buffers, write_figure
from tde_bench.present.formats import spread_words
from tde_bench.present.palette import GREY, INK, colours, plain_frame


def write_chart(result: BatchResult, path: Path) -> None:
    """Draw the totals as bars, as in the published reference, above the phases; PNG or SVG."""
    figure = draw(result, result.summaries())
    write_figure(figure, path)


def draw(result: BatchResult, summaries: list[PhaseSummary]) -> Figure:
    """Return the figure; without a finished round there is only the panel of the phases."""
    totals = [summary for summary in summaries if summary.phase == TOTAL]
    layout = ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.12, hspace=0.06)
    heights = [4.2, 5.6] if totals else [5.6]
    figure = Figure(figsize=(10.5, 0.8 + sum(heights)), layout=layout)
    panels = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    if totals:
        _bars(panels[0], totals)
    _phases(panels[-1], result, [s for s in summaries if s.phase != TOTAL])
    figure.suptitle(heading("Batch", result), fontsize=13, fontweight="bold", color=INK)
    figure.supxlabel(_footnote(result), fontsize=8, color=GREY)
    return figure


def _bars(axes: Axes, totals: list[PhaseSummary]) -> None:
    """Draw elapsed seconds of the whole batch."""
    heights = [summary.seconds for summary in totals]
    chosen = colours(summary.configuration for summary in totals)
    positions = np.arange(len(totals))
    axes.bar(positions, heights, width=0.62, color=chosen)
    names = [summary.label for summary in totals]
    ratios = [summary.seconds_ratio for summary in totals]
    name_bars(axes, names, ratios, heights, chosen, "{:.1f} s")
    axes.set_title("Elapsed seconds of all phases (lower is better)", fontsize=11, color=INK)
    plain_frame(axes)


def _phases(axes: Axes, result: BatchResult, summaries: list[PhaseSummary]) -> None:
    """Draw elapsed time of each phase relative to the same phase without encryption."""
    names = [name for name in result.labels if name != result.baseline]
    phases = [name for name in result.phases if any(s.phase == name for s in summaries)]
    width = 0.8 / max(1, len(names))
    for index, (name, colour) in enumerate(zip(names, colours(names), strict=True)):
        found = {s.phase: s.seconds_ratio for s in summaries if s.configuration == name}
        places, ratios, below, above = [], [], [], []
        for place, phase in enumerate(phases):
            ratio = found.get(phase)
            if ratio is None:
                continue
            places.append(place + (index - (len(names) - 1) / 2) * width)
            ratios.append(ratio.median)
            below.append(ratio.median - (ratio.median if ratio.low is None else ratio.low))
            above.append((ratio.median if ratio.high is None else ratio.high) - ratio.median)
        axes.bar(
            places,
            ratios,
            width=width * 0.92,
            color=colour,
            label=result.labels[name],
            yerr=np.array([below, above]),
            error_kw={"ecolor": INK, "elinewidth": 0.8, "capsize": 2, "capthick": 0.8},
        )
    axes.axhline(1.0, color=INK, linewidth=1)
    labels = [result.phases[phase] for phase in phases]
    axes.set_xticks(np.arange(len(phases)), labels, fontsize=9, color=INK, rotation=30, ha="right")
    axes.set_title(
        f"Elapsed time of each phase, {result.labels[result.baseline]} = 1 (lower is better)",
        fontsize=11,
        color=INK,
    )
    if names:
        axes.legend(fontsize=9, frameon=False, ncols=len(names), loc="upper left")
        axes.margins(y=0.15)
    plain_frame(axes)


def _footnote(result: BatchResult) -> str:
    parts = [f"scale {result.parameters['scale']}"]
    parts += times_shared_buffers(result)
    rounds = 1 + max(run.round for run in result.runs)
    parts.append(f"{rounds} round{'s' if rounds > 1 else ''}, interleaved by phase")
    return (
        ", ".join(parts)
        + ".\n×: median of the ratios within each round, with its "
        + f"{spread_words(estimates_of(result.summaries()))}. "
        "Software: OpenSSL without the CPU's AES instructions."
    )
