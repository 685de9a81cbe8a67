"""The lab's own arithmetic: what it calls lost, and how it counts an outage."""

from __future__ import annotations

import json
from pathlib import Path

from tests.ha_lab.counting import Count, Load
from tests.ha_lab.results import write_chart


def notes(path: Path, *lines: tuple[float, str, int]) -> Load:
    text = [json.dumps({"t": t, "kind": kind, "id": number}) + "\n" for t, kind, number in lines]
    path.write_text("".join(text) + '{"t": 9, "kind": "acknow')
    return Load(path)


def test_a_row_that_is_not_there_is_lost(tmp_path: Path) -> None:
    load = notes(
        tmp_path / "notes",
        (1.0, "connected", 0),
        (1.1, "acknowledged", 1),
        (1.2, "acknowledged", 2),
        (1.3, "warned", 3),
        (1.4, "failed", 4),
        (4.7, "acknowledged", 5),
    )
    # Of a commit that came with a warning, or failed, nobody was told that it is safe.
    assert load.count({1, 2, 5}) == Count(acknowledged=3, lost=0, outage_seconds=3.5)
    assert load.count({1, 5}).lost == 1
    assert load.first == 1


def test_the_chart_is_drawn(tmp_path: Path) -> None:
    event = {"manager": "Pacemaker", "kind": "kill -9", "mode": "stock", "outage_seconds": 4.0}
    write_chart([event, {**event, "mode": "encrypted"}], tmp_path / "chart.png")
    assert (tmp_path / "chart.png").stat().st_size > 1000
