"""The lab's table and chart: each failover a dot, stock beside encrypted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

_COLOURS = {"stock": "#8a8f98", "encrypted": "#2f6fb0"}


def _groups(events: list[dict[str, Any]]) -> Iterator[tuple[str, str, dict[str, list[Any]]]]:
    """Yield the manager, the kind and the events of each mode, in the order of their first one."""
    names = dict.fromkeys((one["manager"], one["kind"]) for one in events)
    for manager, kind in names:
        of_kind = [one for one in events if (one["manager"], one["kind"]) == (manager, kind)]
        yield (
            manager,
            kind,
            {mode: [one for one in of_kind if one["mode"] == mode] for mode in _COLOURS},
        )


def show_table(console: Console, events: list[dict[str, Any]]) -> None:
    """Print medians and ranges, and what was lost."""
    table = Table("Manager", "Event", "Stock", "Encrypted", "Ratio", "Rows", "Lost")
    for manager, kind, modes in _groups(events):
        medians = {}
        cells = []
        for mode, found in modes.items():
            seconds = [one["outage_seconds"] for one in found]
            if not seconds:
                cells.append("-")
                continue
            medians[mode] = median(seconds)
            cells.append(
                f"{medians[mode]:.1f} s ({min(seconds):.1f} to {max(seconds):.1f}; {len(seconds)})"
            )
        ratio = f"{medians['encrypted'] / medians['stock']:.2f}" if len(medians) == 2 else "-"
        all_of_them = [one for found in modes.values() for one in found]
        rows = sum(one["acknowledged"] for one in all_of_them)
        lost = sum(one["lost"] for one in all_of_them)
        table.add_row(manager, kind, *cells, ratio, f"{rows:,}", str(lost))
    console.print(table)


def write_chart(events: list[dict[str, Any]], path: Path) -> None:
    """Draw the outages; nothing where there is none yet."""
    if not events:
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.lines import Line2D

    groups = list(_groups(events))
    figure, axes = pyplot.subplots(figsize=(9, 1.2 + 0.7 * len(groups)), layout="constrained")
    for row, (_, _, modes) in enumerate(groups):
        for offset, (mode, found) in zip((-0.15, 0.15), modes.items(), strict=True):
            seconds = [one["outage_seconds"] for one in found]
            places = [row + offset] * len(seconds)
            axes.scatter(seconds, places, s=28, alpha=0.7, color=_COLOURS[mode])
            if seconds:
                axes.scatter(
                    [median(seconds)], [row + offset], marker="|", s=260, color=_COLOURS[mode]
                )
    axes.set_yticks(range(len(groups)), [f"{kind}\n{manager}" for manager, kind, _ in groups])
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel("seconds without an acknowledged row; a dot is an event, a bar the median")
    axes.grid(axis="x", alpha=0.3)
    handles = [Line2D([], [], color=color, marker="o", ls="") for color in _COLOURS.values()]
    axes.legend(handles, list(_COLOURS), loc="lower right")
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
