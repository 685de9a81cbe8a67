"""The bar chart of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import StrMethodFormatter

from tde_bench.measure.statistics import Estimate, median_estimate
from tde_bench.oltp.results import OltpResult, Summary
from tde_bench.oltp.tables import estimates_of
from tde_bench.present.charts import heading, name_bars, times_shared_buffers, write_figure
from tde_bench.present.formats import spread_words
from tde_bench.present.palette import GREY, INK, colours, plain_frame


def write_chart(result: OltpResult, path: Path) -> None:
    """Draw TPS and CPU per transaction of every configuration as PNG or SVG.

    The chart of a sweep shows how their ratios change from point to point.
    """
    from tde_bench.oltp.sweep_chart import draw_sweep

    summaries = result.summaries()
    figure = draw_sweep(result) if result.is_sweep else draw(result, summaries)
    write_figure(figure, path)


def draw(result: OltpResult, summaries: list[Summary]) -> Figure:
    """Return the figure: throughput on the left, CPU per transaction (if known) on the right."""
    with_cpu = all(summary.cpu_ms_per_transaction is not None for summary in summaries)
    panels = 2 if with_cpu else 1
    layout = ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.12, wspace=0.06)
    figure = Figure(figsize=(1.5 + 4.4 * panels, 5.0), layout=layout)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    _panel(
        axes[0],
        result,
        summaries,
        metric="tps",
        ratios=[summary.tps_ratio for summary in summaries],
        title="Transactions per second (higher is better)",
        number="{:,.0f}",
    )
    if with_cpu:
        _panel(
            axes[1],
            result,
            summaries,
            metric="cpu_ms_per_transaction",
            ratios=[summary.cpu_ratio for summary in summaries],
            title="Server CPU ms per transaction (lower is better)",
            number="{:.3f}",
        )
    title = heading(result.parameters.get("title", "pgbench TPC-B"), result)
    figure.suptitle(title, fontsize=13, fontweight="bold", color=INK)
    figure.supxlabel(_footnote(result), fontsize=8, color=GREY)
    return figure


def _panel(
    axes: Axes,
    result: OltpResult,
    summaries: list[Summary],
    *,
    metric: str,
    ratios: list[Estimate | None],
    title: str,
    number: str,
) -> None:
    """Draw one bar per configuration: median, its interval, and below it the paired ratio."""
    frame = result.frame()
    estimates = []
    for summary in summaries:
        values = frame.loc[frame["configuration"] == summary.configuration, metric]
        estimates.append(median_estimate(values.to_numpy(dtype=np.float64)))
    heights = [estimate.median for estimate in estimates]
    positions = np.arange(len(summaries))
    chosen = colours(summary.configuration for summary in summaries)
    axes.bar(
        positions,
        heights,
        width=0.62,
        color=chosen,
        yerr=_error_bars(estimates),
        error_kw={"ecolor": INK, "elinewidth": 1.2, "capsize": 5, "capthick": 1.2},
    )
    names = [summary.label for summary in summaries]
    name_bars(axes, names, ratios, heights, chosen, number)
    axes.set_title(title, fontsize=11, color=INK)
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    plain_frame(axes)


def _error_bars(estimates: list[Estimate]) -> Any:
    """Return the distances from the medians down and up to the ends of their intervals."""
    below = [e.median - (e.median if e.low is None else e.low) for e in estimates]
    above = [(e.median if e.high is None else e.high) - e.median for e in estimates]
    return np.array([below, above])


def _footnote(result: OltpResult) -> str:
    parameters = result.parameters
    parts = [
        f"{parameters.get('scale_unit', 'scale')} {parameters['scale']}",
        f"{parameters['clients']} clients",
    ]
    parts += times_shared_buffers(result)
    summaries = result.summaries()
    rounds = max(summary.rounds for summary in summaries)
    spread = spread_words(estimates_of(summaries))
    parts.append(f"{rounds} interleaved rounds of {parameters['duration']} s")
    return (
        ", ".join(parts)
        + ".\nBars: medians. ×: median of the ratios within each round. Lines and brackets: "
        + f"{spread}."
    )
