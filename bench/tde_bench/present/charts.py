"""Parts that the charts of several commands share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tde_bench.measure.result import BenchmarkResult
from tde_bench.measure.statistics import Estimate
from tde_bench.present.palette import DARK_COLOURS, INK


def write_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG or SVG, as the name says."""
    figure.savefig(path, dpi=200, format=path.suffix.lower().lstrip("."))


def heading(what: str, result: BenchmarkResult) -> str:
    """Return the first line of a chart: what was run, and on what."""
    machine = result.metadata.get("cpu", {})
    version = result.facts.get(result.baseline, {}).get("server_version", "?").split()[0]
    return (
        f"{what} on PostgreSQL {version}, "
        f"{machine.get('model', 'unknown CPU')}, {machine.get('count', '?')} CPUs"
    )


def times_shared_buffers(result: BenchmarkResult) -> list[str]:
    """Return how large the data is, or nothing where that is not known."""
    facts = result.facts.get(result.baseline, {})
    if not facts:
        return []
    times = facts["database_bytes"] / facts["shared_buffers_bytes"]
    return [f"data {times:.1f} × shared_buffers"]


def ratio_text(ratio: Estimate | None) -> str:
    """Return the text below a bar's name."""
    if ratio is None:
        return "baseline"
    if ratio.low is None or ratio.high is None:
        return f"× {ratio.median:.3f}"
    return f"× {ratio.median:.3f}\n[{ratio.low:.3f}, {ratio.high:.3f}]"


def name_bars(
    axes: Axes,
    names: Sequence[str],
    ratios: Sequence[Estimate | None],
    heights: Sequence[float],
    colours: Sequence[str],
    number: str,
) -> None:
    """Write name and ratio below each bar, and its height into it.

    Args:
        number: the format of the height.
    """
    labels = [f"{name}\n{ratio_text(ratio)}" for name, ratio in zip(names, ratios, strict=True)]
    axes.set_xticks(range(len(labels)), labels, fontsize=10, color=INK)
    for position, (height, colour) in enumerate(zip(heights, colours, strict=True)):
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
