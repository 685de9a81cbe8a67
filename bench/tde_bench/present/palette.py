"""The look that all charts share."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from matplotlib.axes import Axes

# From the palette of Okabe and Ito, which people with any kind of colour blindness can tell
# apart; their lightness differs as well, for print in grey. A configuration has the same colour
# in every chart.
_COLOURS = {
    "none": "#999999",
    "control": "#BBBBBB",
    "aes128": "#56B4E9",
    "aes256": "#0072B2",
    "aes128-software": "#E69F00",
    "aes256-software": "#D55E00",
}
# The last ones are for charts that have no configurations of their own.
_OTHER_COLOURS = ("#009E73", "#CC79A7", "#F0E442", "#000000", "#56B4E9", "#D55E00")
DARK_COLOURS = frozenset({"#0072B2", "#009E73", "#D55E00", "#000000"})
INK = "#222222"
GREY = "#555555"


def colours(configurations: Iterable[str]) -> list[str]:
    """Return a colour for each configuration; the user's servers get the remaining ones."""
    others = itertools.cycle(_OTHER_COLOURS)
    return [_COLOURS.get(name) or next(others) for name in configurations]


def plain_frame(axes: Axes) -> None:
    """Leave only what carries information: light horizontal lines and the baseline."""
    axes.set_axisbelow(True)
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.tick_params(axis="both", length=0)
    axes.tick_params(axis="y", labelsize=9, labelcolor=GREY)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
