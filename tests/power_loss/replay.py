"""Builds crash states out of a recording, starts a server on each, and keeps those that fail."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random

from tests.power_loss.checks import Problem, Told
from tests.power_loss.disk import Crash, Disk, Names
from tests.power_loss.journal import read_journal
from tests.power_loss.recording import recording
from tests.power_loss.scenario import Scenario
from tests.power_loss.site import Site

# Cuts beside these are the ones that find something.
_TURNING_POINTS = "crlmsudFfDW"


@dataclass(frozen=True)
class Recording:
    """What a scenario left: where it began, and each change since then."""

    directory: Path

    @property
    def base(self) -> Path:
        return self.directory / "base"

    @property
    def journal(self) -> Path:
        return self.directory / "journal"

    def positions(self) -> tuple[int, list[int]]:
        """Return the number of records, and those after which a cut is most instructive."""
        count, turning = 0, []
        for count, record in enumerate(read_journal(self.journal), 1):
            if record.what in _TURNING_POINTS:
                turning.append(count)
        return count, turning


@dataclass(frozen=True)
class StateResult:
    """What one crash state came to. ``number`` and ``seed`` are enough to build it again."""

    number: int
    seed: int
    position: int
    crash: Crash
    problems: tuple[Problem, ...]
    kept: str = ""


def record(
    scenario: Scenario, site: Site, directory: Path, program: Path, seconds: float
) -> Recording:
    """Run a scenario once, and return its recording in ``directory``."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    made = Recording(directory)
    site.make_empty()
    scenario.prepare(site)
    try:
        with recording(site.root, made.base, made.journal, program) as mounted:
            try:
                scenario.act(site, mounted.notes, seconds)
                mounted.notes.write("the end")
            finally:
                site.kill()
    finally:
        site.make_empty()
    return made


def replay(
    scenario: Scenario,
    site: Site,
    made: Recording,
    *,
    numbers: Sequence[int],
    seed: int,
    names: Names = Names.JOURNAL,
    keep: Path | None = None,
) -> Iterator[StateResult]:
    """Yield the result of each state, in the order of the journal.

    Args:
        numbers: of the states; each has its own random numbers, whichever others there are.
        keep: where states that fail are left, with the server's log.
    """
    count, turning = made.positions()
    wanted = sorted((_position(seed, number, count, turning), number) for number in numbers)
    disk = Disk(made.base, names)
    records = enumerate(read_journal(made.journal), 1)
    fed = 0
    for position, number in wanted:
        while fed < position:
            fed, next_record = next(records)
            disk.feed(next_record)
        random = Random(f"{seed}/{number}/state")
        site.make_empty()
        crash = disk.crash(random, random.choice(scenario.sectors), site.root)
        site.give(site.root)
        # It holds the number of a process that may be another one after the machine's start.
        (site.data / "postmaster.pid").unlink(missing_ok=True)
        try:
            problems = scenario.check(site, Told.read(disk.notes), random)
        finally:
            site.kill()
        result = StateResult(number, seed, position, crash, tuple(problems))
        if problems and keep is not None:
            result = replace(result, kept=str(_keep(disk, site, scenario, result, keep)))
        yield result
    site.make_empty()


def _position(seed: int, number: int, count: int, turning: Sequence[int]) -> int:
    """Choose where the power goes: anywhere, or at one of the turning points, half and half."""
    random = Random(f"{seed}/{number}/position")
    if not turning or random.random() < 0.5:
        return random.randint(1, count)
    return min(count, random.choice(turning) + random.randint(0, 3))


def _keep(disk: Disk, site: Site, scenario: Scenario, result: StateResult, keep: Path) -> Path:
    """Leave a state as it was found after the cut, with what was wrong and the server's log."""
    target = keep / f"state-{result.number}-seed-{result.seed}"
    shutil.rmtree(target, ignore_errors=True)
    (target / "disk").mkdir(parents=True)
    random = Random(f"{result.seed}/{result.number}/state")
    disk.crash(random, random.choice(scenario.sectors), target / "disk")
    (target / "result.json").write_text(json.dumps(as_json(result), indent=1) + "\n")
    if site.log.exists():
        subprocess.run(["cp", str(site.log), str(target / "server.log")], check=True)
    return target


def as_json(result: StateResult) -> dict[str, object]:
    return asdict(result)
