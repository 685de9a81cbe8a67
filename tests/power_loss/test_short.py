"""A short form of ``make power-loss``: some dozens of power cuts, on the oldest version."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tde.postgres import PostgresBinaries
from tests.power_loss.commands import KeystoreWrites, Rotation
from tests.power_loss.load import MixedLoad
from tests.power_loss.replay import Recording, record, replay
from tests.power_loss.scenario import Scenario
from tests.power_loss.site import Side, Site

STATES = 8
SEED = 20261128
SECONDS = 3


def made_up_site(side: Side, binaries: PostgresBinaries, tmp_path: Path) -> Site:
    """Return a place that the server's user reaches, under a name that only this test has."""
    return Site(Path("/tmp") / f"tde-power-loss-{os.getpid()}-{tmp_path.name}", side, binaries)


@pytest.mark.parametrize("side", [Side.TDE, pytest.param(Side.STOCK, marks=pytest.mark.slow)])
def test_nothing_is_lost_when_the_power_goes_under_load(
    side: Side, any_binaries: PostgresBinaries, recorder: Path, tmp_path: Path
) -> None:
    site = made_up_site(side, any_binaries, tmp_path)
    scenario = MixedLoad()
    try:
        made: Recording = record(scenario, site, tmp_path / "made", recorder, SECONDS)
        wrong = {
            f"state {result.number} of seed {SEED}": [p.text for p in result.problems]
            for result in replay(scenario, site, made, numbers=range(STATES), seed=SEED)
            if result.problems
        }
    finally:
        site.remove()
    assert wrong == {}


@pytest.mark.parametrize("scenario", [KeystoreWrites(), Rotation()], ids=lambda s: s.name)
def test_no_key_is_lost(
    scenario: Scenario, any_binaries: PostgresBinaries, recorder: Path, tmp_path: Path
) -> None:
    site = Site(
        Path("/tmp") / f"tde-power-loss-{scenario.name}-{tmp_path.parent.name}",
        Side.TDE,
        any_binaries,
    )
    try:
        made = record(scenario, site, tmp_path / "made", recorder, SECONDS)
        results = list(replay(scenario, site, made, numbers=range(40), seed=SEED))
    finally:
        site.remove()
    assert [result for result in results if result.problems] == []
    assert len(results) == 40
