"""Fail over again and again, stock beside encrypted, and count rows and seconds.

``make ha-lab`` (as root) builds each pair anew, takes it through every event (as often as
``--repeat`` says), and does so for each mode in turn, as often as ``--rounds`` says. Results are
added to results/ha.json:

    make ha-lab HA_LAB_ARGS="--rounds 10"
    make ha-lab HA_LAB_ARGS="--manager pacemaker --event 'kill -9' --mode encrypted"
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from tde.postgres import find_binaries
from tests.ha_lab.events import Event, events_of
from tests.ha_lab.lab import (
    REPOSITORY,
    Lab,
    Mode,
    make_layer,
    make_network,
    missing_programs,
    remove_network,
)
from tests.ha_lab.node import power_off_all
from tests.ha_lab.pacemaker import Pacemaker
from tests.ha_lab.patroni import Patroni
from tests.ha_lab.results import show_table, write_chart
from tests.ha_lab.server import Servers

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)
console = Console(highlight=False, soft_wrap=True)
RESULTS = REPOSITORY / "results"
# Not below /usr, /etc or /var, which are layers of the nodes.
DEFAULT_WORK = REPOSITORY / "build" / "ha-lab"
DEFAULT_VERSION = 15


class Manager(str, Enum):
    """Of the cluster."""

    PACEMAKER = "pacemaker"
    PATRONI = "patroni"


@app.command()
def run(
    rounds: Annotated[int, typer.Option(help="How often each pair is built.")] = 3,
    repeat: Annotated[int, typer.Option(help="How often a pair goes through each event.")] = 1,
    manager: Annotated[list[Manager] | None, typer.Option(help="Both, by default.")] = None,
    mode: Annotated[list[Mode] | None, typer.Option(help="Both, by default.")] = None,
    event: Annotated[list[str] | None, typer.Option(help="All, by default.")] = None,
    version: Annotated[int, typer.Option(help="Of PostgreSQL.")] = DEFAULT_VERSION,
    work: Annotated[Path, typer.Option(help="Where nodes live: a real disk.")] = DEFAULT_WORK,
    results: Annotated[Path, typer.Option(help="Where ha.json and ha.png go.")] = RESULTS,
) -> None:
    """Run the lab; exit 1 when a row was lost or a round broken off, 2 when it cannot be built."""
    if os.geteuid() != 0 or missing_programs():
        console.print(f"The lab needs root and {', '.join(missing_programs()) or 'nothing else'}")
        raise typer.Exit(2)
    lab = Lab(work, find_binaries(major=version).bindir)
    work.mkdir(mode=0o755, parents=True, exist_ok=True)
    results.mkdir(exist_ok=True)
    make_layer(lab)
    document = _read(results / "ha.json")
    broken: list[str] = []
    events: list[Event] = []
    for number in range(rounds):
        for one_manager in manager or list(Manager):
            for one_mode in mode or list(Mode):
                what = f"{one_manager.value}, {one_mode.value}"
                console.print(f"[bold]round {number + 1}/{rounds}: {what}")
                for found in _round(lab, one_manager, one_mode, event, repeat, broken):
                    document["events"].append(found.as_json())
                    events.append(found)
                    _write(results, document)
    show_table(console, document["events"])
    write_chart(document["events"], results / "ha.png")
    for text in broken:
        console.print(f"broken off: {text}", markup=False)
    if broken or any(one.lost or not one.is_equal for one in events):
        raise typer.Exit(1)


def _round(
    lab: Lab,
    manager: Manager,
    mode: Mode,
    wanted: list[str] | None,
    repeat: int,
    broken: list[str],
) -> Iterator[Event]:
    """Build a pair, and take it through the events; yield each when it is over."""
    _tear_down(lab)
    shutil.rmtree(lab.directory / "nodes", ignore_errors=True)
    servers = Servers(lab, mode)
    pair = Pacemaker(servers) if manager is Manager.PACEMAKER else Patroni(servers)
    begin = time.monotonic()
    try:
        make_network()
        for node in servers.nodes:
            node.power_on()
        pair.build()
        _tell(begin, "the pair is synchronous")
        for kind, happen in list(events_of(pair).items()) * repeat:
            if wanted and kind not in wanted:
                continue
            event = happen()
            _tell(
                begin,
                f"{kind}: outage {event.outage_seconds} s, {event.lost} of {event.acknowledged} "
                f"rows lost, in sync again after {event.rejoin_seconds} s"
                + ("" if event.is_equal else ", and the nodes DIFFER"),
            )
            yield event
    except (RuntimeError, TimeoutError, AssertionError) as error:
        _tell(begin, f"BROKEN OFF: {error}")
        broken.append(f"{manager.value}, {mode.value}: {error}")
    finally:
        if isinstance(pair, Patroni):
            pair.stop()
        _tear_down(lab)


def _tear_down(lab: Lab) -> None:
    with suppress(OSError):
        power_off_all(lab)
    remove_network()


def _tell(begin: float, text: str) -> None:
    console.print(f"  {time.monotonic() - begin:6.1f} s  {text}", markup=False)


def _read(path: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        document = {"schema": 1, "machine": platform.platform(), "events": []}
    return document


def _write(directory: Path, document: dict[str, Any]) -> None:
    path = directory / "ha.json"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(document, indent=1) + "\n")
    temporary.replace(path)


if __name__ == "__main__":
    app()
