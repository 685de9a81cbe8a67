"""Charts for a page that is also read on a phone: small, one statement each, as SVG data URIs.

Each chart is an image of its own, so that the identifiers inside one SVG cannot meet another's.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import NullLocator, StrMethodFormatter

from tde_bench.measure.statistics import Estimate
from tde_bench.present.palette import DARK_COLOURS, GREY, INK, plain_frame

# Inches; a column of the page is about as wide, so that text appears in its real size.
_WIDTH = 4.6


@dataclass(frozen=True)
class Chart:
    """An image and what it shows, in words.

    Attributes:
        values: the figures of a chart of few bars, for those who cannot see it.
    """

    title: str
    uri: str
    alt: str
    note: str = ""
    values: str = ""


@dataclass(frozen=True)
class Bar:
    """One bar; ``low`` and ``high`` are the ends of its interval."""

    label: str
    value: float
    colour: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Line:
    """One line through points; ``low`` and ``high`` make a band."""

    label: str
    colour: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    style: str = "-"


def bar_of(label: str, colour: str, estimate: Estimate | None) -> Bar:
    """Return the bar of a ratio; that of the baseline, which has no estimate, is 1."""
    if estimate is None:
        return Bar(label, 1.0, colour)
    return Bar(label, estimate.median, colour, estimate.low, estimate.high)


def bars(
    title: str, data: Sequence[Bar], *, number: str, approximate: bool = False, note: str = ""
) -> Chart:
    """Draw vertical bars with their values; approximate ones are hatched and marked with ≈."""
    figure, axes = _figure(3.3)
    places = np.arange(len(data))
    sign = "≈ " if approximate else ""
    axes.bar(
        places,
        [bar.value for bar in data],
        width=0.66,
        color=["white" if approximate else bar.colour for bar in data],
        edgecolor=[bar.colour for bar in data],
        hatch="///" if approximate else None,
        linewidth=1.2,
    )
    for place, bar in zip(places, data, strict=True):
        if bar.low is not None and bar.high is not None:
            axes.plot([place, place], [bar.low, bar.high], color=INK, linewidth=1.4)
        axes.annotate(
            sign + number.format(bar.value),
            (float(place), 0.04 * max(each.value for each in data)),
            ha="center",
            fontsize=10,
            fontweight="bold",
            color="white" if bar.colour in DARK_COLOURS and not approximate else INK,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5} if approximate else None,
        )
    axes.set_xticks(places, [_folded(bar.label) for bar in data], fontsize=9, color=INK)
    plain_frame(axes)
    values = "; ".join(f"{bar.label} {sign}{number.format(bar.value)}" for bar in data)
    return Chart(title, _uri(figure), f"Bar chart. {title}: {values}.", note, values)


def grouped(title: str, groups: Sequence[str], series: Sequence[Sequence[Bar | None]]) -> Chart:
    """Draw horizontal bars: a group per phase, in it a bar per configuration, around 1."""
    figure, axes = _figure(0.9 + 0.17 * len(groups) * (len(series) + 1))
    height = 0.84 / max(1, len(series))
    for index, line in enumerate(series):
        for group, bar in enumerate(line):
            if bar is None:
                continue
            place = group + (index - (len(series) - 1) / 2) * height
            axes.barh(place, bar.value, height=height * 0.92, color=bar.colour)
            if bar.low is not None and bar.high is not None:
                axes.plot([bar.low, bar.high], [place, place], color=INK, linewidth=1)
    axes.axvline(1.0, color=INK, linewidth=1)
    axes.set_yticks(np.arange(len(groups)), groups, fontsize=9, color=INK)
    axes.invert_yaxis()
    plain_frame(axes)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color="#dddddd", linewidth=0.8)
    axes.tick_params(axis="y", labelsize=9, labelcolor=INK)
    handles = {bar.label: bar.colour for line in series for bar in line if bar is not None}
    for label, colour in handles.items():
        axes.barh([0], [0], color=colour, label=label)
    figure.legend(loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    return Chart(title, _uri(figure), f"Bar chart. {title}; the figures are in the table.")


def lines(
    title: str,
    data: Sequence[Line],
    *,
    x_label: str,
    unity: bool = False,
    log_y: bool = False,
) -> Chart:
    """Draw lines over a logarithmic quantity, such as the number of clients."""
    figure, axes = _figure(3.6)
    for line in data:
        axes.plot(line.x, line.y, line.style, color=line.colour, marker="o", ms=4, label=line.label)
        if line.low is not None and line.high is not None:
            axes.fill_between(line.x, line.low, line.high, color=line.colour, alpha=0.15)
    if unity:
        axes.axhline(1.0, color=INK, linewidth=1)
    axes.set_xscale("log", base=2)
    if log_y:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ticks = sorted({x for line in data for x in line.x})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(x_label, fontsize=9, color=GREY)
    plain_frame(axes)
    axes.tick_params(axis="x", labelsize=9, labelcolor=GREY)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return Chart(title, _uri(figure), f"Line chart. {title}; the figures are in the table.")


def _figure(height: float) -> tuple[Figure, Axes]:
    layout = ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.06)
    figure = Figure(figsize=(_WIDTH, height), layout=layout)
    return figure, figure.subplots()


def _folded(label: str) -> str:
    """Break a label where five bars would otherwise run into each other."""
    return label.replace(" ", "\n", 1)


def _uri(figure: Figure) -> str:
    buffer = io.BytesIO()
    # No date and no random identifiers: the same results give the same page.
    with mpl.rc_context({"svg.hashsalt": "tde-bench"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
