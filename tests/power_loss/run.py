"""Cut the power of stock PostgreSQL and of tde in many places, and compare what is left.

``make power-loss`` runs 500 states for each version and side. For parts, in the repository's root:

    .venv/bin/python -m tests.power_loss.run --version 15 --scenario load --states 50
    .venv/bin/python -m tests.power_loss.run --version 15 --scenario load --side tde \\
        --reuse --seed 1 --state 17
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from tde.postgres import PostgresBinaries, list_binaries
from tests.power_loss.checks import Kind, kinds
from tests.power_loss.disk import Names
from tests.power_loss.recording import build_recorder, why_unavailable
from tests.power_loss.replay import Recording, StateResult, as_json, record, replay
from tests.power_loss.scenario import Scenario
from tests.power_loss.scenarios import SCENARIOS
from tests.power_loss.site import Side, Site

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)
console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 110)

MEMORY = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path("/tmp")
DEFAULT_WORK = Path(__file__).parents[2] / "build" / "power-loss"


@dataclass
class Outcome:
    """The states of one scenario on one version and side."""

    scenario: str
    version: int
    side: Side
    results: list[StateResult] = field(default_factory=list)

    def count(self, kind: Kind) -> int:
        return sum(kind in kinds(result.problems) for result in self.results)

    @property
    def name(self) -> str:
        return f"{self.scenario}-{self.version}-{self.side.value}"


@app.command()
def run(
    version: Annotated[list[int] | None, typer.Option(help="Of PostgreSQL.")] = None,
    side: Annotated[list[Side] | None, typer.Option(help="Both, by default.")] = None,
    scenario: Annotated[list[str] | None, typer.Option(help="All, by default.")] = None,
    states: Annotated[int, typer.Option(help="For each version and side, of all scenarios.")] = 500,
    state: Annotated[list[int] | None, typer.Option(help="Only these numbers.")] = None,
    seed: Annotated[int, typer.Option(help="Where the random numbers begin.")] = 1,
    seconds: Annotated[float, typer.Option(help="How long a load runs.")] = 12,
    names: Annotated[Names, typer.Option(help="When a name is durable.")] = Names.JOURNAL,
    reuse: Annotated[bool, typer.Option(help="Take the recordings that are there.")] = False,
    work: Annotated[Path, typer.Option(help="Where recordings and failures go.")] = DEFAULT_WORK,
) -> None:
    """Record, cut, start, check; exit 1 when anything of tde's was lost."""
    reason = why_unavailable()
    if reason is not None:
        console.print(f"The power cannot be cut here: {reason}")
        raise typer.Exit(2)
    chosen = _choose(scenario)
    work.mkdir(parents=True, exist_ok=True)
    program = build_recorder(work)
    outcomes = []
    for binaries in _installations(version or [15, 18]):
        for one_side in side or list(Side):
            shares = _shares(chosen, one_side, states)
            for name, share in shares.items():
                numbers = state or list(range(1, share + 1))
                outcome = Outcome(name, binaries.major, one_side)
                outcomes.append(outcome)
                _run_one(outcome, binaries, numbers, seed, seconds, names, reuse, work, program)
                _save(outcomes, work / "results.json", names)
    console.print(_table(outcomes))
    if any(result.problems for o in outcomes if o.side is Side.TDE for result in o.results):
        raise typer.Exit(1)


def _run_one(
    outcome: Outcome,
    binaries: PostgresBinaries,
    numbers: list[int],
    seed: int,
    seconds: float,
    names: Names,
    reuse: bool,
    work: Path,
    program: Path,
) -> None:
    scenario = SCENARIOS[outcome.scenario]()
    # The WAL of CREATE TABLESPACE holds this path, so a recording needs it again. A state takes
    # half the time in memory; what survives a cut is decided by the model and not by that place.
    site = Site(MEMORY / f"tde-power-loss-{outcome.name}", outcome.side, binaries)
    directory = work / outcome.name
    started = time.monotonic()
    try:
        if reuse and (directory / "journal").exists():
            made = Recording(directory)
        else:
            made = record(scenario, site, directory, program, seconds)
        for result in replay(
            scenario, site, made, numbers=numbers, seed=seed, names=names, keep=work / outcome.name
        ):
            outcome.results.append(result)
            for problem in result.problems:
                console.print(
                    f"{outcome.name} --seed {seed} --state {result.number}: "
                    f"{problem.kind.value}: {problem.text}"
                )
    finally:
        site.remove()
    bad = sum(bool(result.problems) for result in outcome.results)
    console.print(
        f"{outcome.name}: {len(outcome.results)} states, {bad} with problems, "
        f"{time.monotonic() - started:.0f} s"
    )


def _choose(wanted: list[str] | None) -> list[type[Scenario]]:
    unknown = set(wanted or ()) - set(SCENARIOS)
    if unknown:
        console.print(f"There is no scenario {', '.join(sorted(unknown))}; there are:")
        console.print(", ".join(SCENARIOS))
        raise typer.Exit(2)
    return [SCENARIOS[name] for name in wanted or SCENARIOS]


def _shares(chosen: list[type[Scenario]], side: Side, states: int) -> dict[str, int]:
    """Divide the states over the scenarios of a side by their weights."""
    fitting = [scenario for scenario in chosen if side in scenario.sides]
    total = sum(scenario.weight for scenario in fitting)
    return {scenario.name: -(-states * scenario.weight // total) for scenario in fitting}


def _installations(versions: list[int]) -> list[PostgresBinaries]:
    found: dict[int, PostgresBinaries] = {}
    for binaries in list_binaries():
        found.setdefault(binaries.major, binaries)
    missing = [version for version in versions if version not in found]
    if missing:
        console.print(f"PostgreSQL {', '.join(map(str, missing))} is not on this machine.")
        raise typer.Exit(2)
    return [found[version] for version in versions]


def _save(outcomes: list[Outcome], path: Path, names: Names) -> None:
    document = {
        "names": names.value,
        "outcomes": [
            {
                "scenario": outcome.scenario,
                "version": outcome.version,
                "side": outcome.side.value,
                "states": len(outcome.results),
                **{kind.value: outcome.count(kind) for kind in Kind},
                "failed": [as_json(result) for result in outcome.results if result.problems],
            }
            for outcome in outcomes
        ],
    }
    path.write_text(json.dumps(document, indent=1) + "\n")


def _table(outcomes: list[Outcome]) -> Table:
    """Stock beside tde. A state that stock would start is counted by its share, not by itself.

    The two sides are two recordings: a load of several clients never runs the same way twice.
    """
    table = Table(title="Crash states after a power cut")
    for column in ("scenario", "version", "side", "states", "lost", "corrupt", "not started"):
        table.add_column(column, justify="left" if column in ("scenario", "side") else "right")
    totals: dict[tuple[int, Side], Counter[str]] = {}
    for outcome in outcomes:
        row = [str(outcome.count(kind)) for kind in (Kind.LOST, Kind.CORRUPT, Kind.NOT_STARTED)]
        table.add_row(
            outcome.scenario,
            str(outcome.version),
            outcome.side.value,
            str(len(outcome.results)),
            *row,
        )
        total = totals.setdefault((outcome.version, outcome.side), Counter())
        total["states"] += len(outcome.results)
        total.update({kind.value: outcome.count(kind) for kind in Kind})
    table.add_section()
    for (version, side), total in totals.items():
        row = [str(total[kind.value]) for kind in (Kind.LOST, Kind.CORRUPT, Kind.NOT_STARTED)]
        table.add_row("all", str(version), side.value, str(total["states"]), *row)
    return table


if __name__ == "__main__":
    app()
