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
from tde_bench.present.palette import DARK_COLOURS, GREY, INK, colours, plain_frame


def write_chart(result: OltpResult, path: Path) -> None:
    """Draw TPS and CPU per transaction of every configuration as PNG or SVG.

    The chart of a sweep shows how their ratios change from point to point.
    """
    from tde_bench.oltp.sweep_chart import draw_sweep

    summaries = result.summaries()
    figure = draw_sweep(result) if result.is_sweep else draw(result, summaries)
    figure.savefig(path, dpi=200, format=path.suffix.lower().lstrip("."))


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
    figure.suptitle(_title(result), fontsize=13, fontweight="bold", color=INK)
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
    labels = [
        f"{summary.label}\n{_ratio_text(ratio)}"
        for summary, ratio in zip(summaries, ratios, strict=True)
    ]
    axes.set_xticks(positions, labels, fontsize=10, color=INK)
    for position, height, colour in zip(positions, heights, chosen, strict=True):
        # At the foot of the bar, which even a long error bar does not reach.
        axes.annotate(
            number.format(height),
            (float(position), 0.04 * max(heights)),
            ha="center",
            va="bottom",
            fontsize=12,
            fontweight="bold",
            color="white" if colour in DARK_COLOURS else INK,
        )
    axes.set_title(title, fontsize=11, color=INK)
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    plain_frame(axes)


def _error_bars(estimates: list[Estimate]) -> Any:
    """Return the distances from the medians down and up to the ends of their intervals."""
    below = [e.median - (e.median if e.low is None else e.low) for e in estimates]
    above = [(e.median if e.high is None else e.high) - e.median for e in estimates]
    return np.array([below, above])


def _ratio_text(ratio: Estimate | None) -> str:
    """Return the text below a bar's name."""
    if ratio is None:
        return "baseline"
    if ratio.low is None or ratio.high is None:
        return f"× {ratio.median:.3f}"
    return f"× {ratio.median:.3f}\n[{ratio.low:.3f}, {ratio.high:.3f}]"


def _title(result: OltpResult) -> str:
    machine = result.metadata.get("cpu", {})
    version = result.facts.get(result.baseline, {}).get("server_version", "?").split()[0]
    return (
        f"{result.parameters.get('title', 'pgbench TPC-B')} on PostgreSQL {version}, "
        f"{machine.get('model', 'unknown CPU')}, {machine.get('count', '?')} CPUs"
    )


def _footnote(result: OltpResult) -> str:
    parameters = result.parameters
    facts = result.facts.get(result.baseline, {})
    parts = [
        f"{parameters.get('scale_unit', 'scale')} {parameters['scale']}",
        f"{parameters['clients']} clients",
    ]
    if facts:
        times = facts["database_bytes"] / facts["shared_buffers_bytes"]
        parts.append(f"data {times:.1f} × shared_buffers")
    rounds = max(summary.rounds for summary in result.summaries())
    parts.append(f"{rounds} interleaved rounds of {parameters['duration']} s")
    return (
        ", ".join(parts)
        + ".\nBars: medians with 95 % intervals. ×: median of the ratios within each "
        "round, with its 95 % interval."
    )
