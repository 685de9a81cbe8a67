"""The chart of a sweep: how the cost of encryption changes with sessions or with data."""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import NullLocator

from tde_bench.measure.statistics import Estimate
from tde_bench.oltp.results import OltpResult, Point, Summary
from tde_bench.oltp.tables import estimates_of, title
from tde_bench.present.formats import spread_words
from tde_bench.present.palette import GREY, INK, colours, plain_frame

_LINE_STYLES = ("-", "--", ":", "-.")
_Metric = Callable[[Summary], "Estimate | None"]
_PANELS: tuple[tuple[str, _Metric], ...] = (
    ("Transactions per second (1: no cost; higher is better)", lambda s: s.tps_ratio),
    ("Server CPU per transaction (1: no cost; lower is better)", lambda s: s.cpu_ratio),
)


def draw_sweep(result: OltpResult) -> Figure:
    """Return the figure: ratios to the baseline over the swept quantity, with their intervals.

    With several numbers of clients these are on the axis, and each scale is a line; otherwise
    the scales are on the axis.
    """
    layout = ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.12, wspace=0.06)
    figure = Figure(figsize=(10.5, 4.8), layout=layout)
    for axes, (heading, metric) in zip(figure.subplots(1, 2), _PANELS, strict=True):
        _panel(axes, result, metric)
        axes.set_title(heading, fontsize=11, color=INK)
    figure.suptitle(title(result), fontsize=13, fontweight="bold", color=INK)
    figure.supxlabel(
        f"Medians of the ratios to {result.labels[result.baseline]} within each round; bands: "
        f"{spread_words(estimates_of(result.summaries()))}.",
        fontsize=8,
        color=GREY,
    )
    return figure


def _panel(axes: Axes, result: OltpResult, metric: _Metric) -> None:
    points = result.points
    by_clients = len({point.clients for point in points}) > 1
    unit = result.parameters.get("scale_unit", "scale")
    names = [name for name in result.labels if name != result.baseline]
    lines = sorted({point.scale if by_clients else point.clients for point in points})
    for name, colour in zip(names, colours(names), strict=True):
        for number, line in enumerate(lines):
            own = [p for p in points if (p.scale if by_clients else p.clients) == line]
            label = result.labels[name]
            if len(lines) > 1:
                label += f", {unit} {line}" if by_clients else f", {line} clients"
            style = _LINE_STYLES[number % len(_LINE_STYLES)]
            _line(axes, result, metric, own, by_clients, name, label, colour, style)
    axes.axhline(1.0, color=INK, linewidth=1)
    axes.set_xscale("log", base=2)
    places = sorted({point.clients if by_clients else point.scale for point in points})
    axes.set_xticks(places, [str(place) for place in places], fontsize=10, color=INK)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("clients" if by_clients else unit, fontsize=10, color=INK)
    axes.legend(fontsize=9, frameon=False)
    plain_frame(axes)


def _line(
    axes: Axes,
    result: OltpResult,
    metric: _Metric,
    points: list[Point],
    by_clients: bool,
    name: str,
    label: str,
    colour: str,
    style: str,
) -> None:
    """Draw one configuration's line over the points, where it has a ratio."""
    found = []
    for point in points:
        for summary in result.summaries(point):
            estimate = metric(summary)
            if summary.configuration == name and estimate is not None:
                found.append((point.clients if by_clients else point.scale, estimate))
    if not found:
        return
    places = [place for place, _ in found]
    axes.plot(places, [e.median for _, e in found], style, color=colour, marker="o", label=label)
    axes.fill_between(
        places,
        [e.median if e.low is None else e.low for _, e in found],
        [e.median if e.high is None else e.high for _, e in found],
        color=colour,
        alpha=0.18,
        linewidth=0,
    )
