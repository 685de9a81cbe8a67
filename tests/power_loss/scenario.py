"""What every scenario has: something that is durable, something that is recorded, and a check."""

from __future__ import annotations

from abc import ABC, abstractmethod
from random import Random
from typing import ClassVar

from tests.power_loss.checks import Checker, Kind, Problem, Told
from tests.power_loss.recording import Notes
from tests.power_loss.site import REPLAY_SETTINGS, Side, Site, try_to


class Scenario(ABC):
    """One thing that somebody does while the power may go.

    Attributes:
        name: for the command line and the report.
        weight: its share of all states, beside other scenarios.
        sides: those that it makes sense for.
        sectors: sizes in bytes of what the disk writes undivided.
        settings: of the server, while it is recorded and afterwards.
    """

    name: ClassVar[str]
    weight: ClassVar[int] = 1
    sides: ClassVar[tuple[Side, ...]] = (Side.STOCK, Side.TDE)
    sectors: ClassVar[tuple[int, ...]] = (512, 4096)
    settings: ClassVar[dict[str, str]] = {}

    @abstractmethod
    def prepare(self, site: Site) -> None:
        """Make what is there before the recording, and is durable. No server runs afterwards."""

    @abstractmethod
    def act(self, site: Site, notes: Notes, seconds: float) -> None:
        """Do what is recorded, and note what has become true. Servers are killed afterwards."""

    def recover(self, site: Site, told: Told) -> list[Problem]:
        """Do what an administrator does after the cut, until a server runs."""
        error = try_to(lambda: site.start({**REPLAY_SETTINGS, **self.settings}))
        if error is None:
            return []
        return [Problem(Kind.NOT_STARTED, site.server_errors() or error)]

    def check(self, site: Site, told: Told, random: Random) -> list[Problem]:
        """Return what is wrong with a crash state."""
        return self.recover(site, told) or Checker(site, random).run(told)
