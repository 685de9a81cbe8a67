"""The chart of ``io``: what encryption adds to a page of each class, beside the cipher alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from tde_bench.io.results import Cost, IoResult
from tde_bench.present.charts import write_figure
from tde_bench.present.palette import GREY, INK, colours, plain_frame


def write_chart(result: IoResult, path: Path) -> None:
    """Draw a panel per configuration; PNG or SVG."""
    write_figure(draw(result), path)


def draw(result: IoResult) -> Figure:
    """Return the figure; results must have runs."""
    costs = [cost for cost in result.classes() if cost.added_ns_per_page is not None]
    names = list(dict.fromkeys(cost.configuration for cost in costs))
    layout = ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.12, wspace=0.06)
    figure = Figure(figsize=(2.6 + 4.2 * len(names), 4.6), layout=layout)
    panels = figure.subplots(1, max(1, len(names)), squeeze=False, sharey=True)[0]
    for axes, name in zip(panels, names, strict=True):
        own = [cost for cost in costs if cost.configuration == name]
        places = np.arange(len(own))
        fill = colours(["none", "added", "bare"])
        axes.barh(places - 0.2, [_added(c) for c in own], 0.38, color=fill[1], label="with tde")
        bare = [c.bare_ns_per_page or 0.0 for c in own]
        axes.barh(places + 0.2, bare, 0.38, color=fill[2], label="the cipher in its place")
        if own and own[0].cipher_ns is not None:
            axes.axvline(own[0].cipher_ns, color=INK, linewidth=1, label="the cipher alone")
        for place, cost in zip(places, own, strict=True):
            text = f" {_added(cost):.0f}"
            axes.text(max(_added(cost), 0.0), place - 0.2, text, va="center", fontsize=8, color=INK)
        axes.set_yticks(places, [cost.label for cost in own], fontsize=9, color=GREY)
        axes.set_title(result.labels[name], fontsize=11, color=INK)
        axes.set_xlabel("ns added to a page (lower is better)", fontsize=9, color=GREY)
        plain_frame(axes)
    machine = result.metadata.get("cpu", {})
    if names:
        panels[0].invert_yaxis()
        panels[-1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=9, frameon=False)
    figure.suptitle(
        f"PostgreSQL's file I/O, made again, {machine.get('model', 'unknown CPU')}",
        fontsize=13,
        fontweight="bold",
        color=INK,
    )
    return figure


def _added(cost: Cost) -> float:
    return cost.added_ns_per_page or 0.0
