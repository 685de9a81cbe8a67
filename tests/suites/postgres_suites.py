"""Run PostgreSQL's own test suites with the stock programs and with encryption, and compare.

``make postgres-suites`` runs all of it, for hours. For parts, from the repository's root:

    .venv/bin/python -m tests.suites.postgres_suites run --version 18 --suite pg_rewind
    .venv/bin/python -m tests.suites.postgres_suites run --suite recovery --test 016 --side tde
    .venv/bin/python -m tests.suites.postgres_suites compare
"""

from __future__ import annotations

import os
import signal
import sys
import time
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tde.errors import TdeError
from tde.postgres import server_os_user
from tests.suites.compare import Difference, describe, differences, load_expected, summary
from tests.suites.results import PASS, SKIP, TestResult, load, save
from tests.suites.run import SUITES, Runner, suites_of
from tests.suites.sources import RELEASES, SuitesError, Tree, prepare
from tests.suites.wrappers import make_wrappers

app = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True, help=__doc__
)
console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 110)

DEFAULT_WORK = Path(__file__).parents[2] / "build" / "postgres-suites"


class Side(str, Enum):
    """Which programs are first in PATH."""

    plain = "plain"
    tde = "tde"


WorkOption = Annotated[
    Path,
    typer.Option(
        envvar="TDE_SUITES_WORK",
        help="Where sources, builds and results are. As root: one that other users can reach.",
    ),
]
VersionOption = Annotated[
    list[int] | None, typer.Option("--version", help="Major version; again for more. [all]")
]
SuiteOption = Annotated[
    list[str] | None, typer.Option("--suite", help="Name of a suite; again for more. [all]")
]


@app.command("prepare")
def prepare_command(
    work: WorkOption = DEFAULT_WORK,
    version: VersionOption = None,
    mirror: Annotated[str | None, typer.Option(help="Debian archive. [this machine's]")] = None,
) -> None:
    """Fetch the source packages and build them; what is built already stays."""
    for tree in _trees(work, version):
        console.print(f"PostgreSQL {tree.major}: source package {prepare(tree, mirror=mirror)}")


@app.command()
def run(
    work: WorkOption = DEFAULT_WORK,
    version: VersionOption = None,
    suite: SuiteOption = None,
    side: Annotated[list[Side] | None, typer.Option(help="[both]")] = None,
    test: Annotated[
        list[str] | None, typer.Option(help="Start of the name of a TAP program. [all]")
    ] = None,
    jobs: Annotated[int, typer.Option(help="TAP programs at once.")] = os.cpu_count() or 2,
    retries: Annotated[int, typer.Option(help="Runs of a TAP program that fails, beyond 1.")] = 1,
    mirror: Annotated[str | None, typer.Option(help="Debian archive. [this machine's]")] = None,
) -> None:
    """Prepare, run the suites, and compare; exit status 1 for unexpected differences."""
    missing = False
    for tree in _trees(work, version):
        try:
            source = prepare(tree, mirror=mirror)
        except SuitesError as error:
            # A mirror need not have the sources of every release; the others are run all the same.
            console.print(f"[bold red]PostgreSQL {tree.major} is left out:[/] {error}")
            missing = True
            continue
        for chosen in side or list(Side):
            scratch = tree.folder / "runs" / chosen.value
            bindir = tree.bindir
            if chosen is Side.tde:
                bindir = make_wrappers(tree, scratch, server_os_user(None))
            runner = Runner(tree, bindir, scratch, server_os_user(None), jobs, retries)
            for name in _chosen_suites(tree, suite):
                started = time.monotonic()
                label = f"{tree.major} {chosen.value} {name}"

                def report(test_name: str, result: TestResult, label: str = label) -> None:
                    _print_result(label, test_name, result)

                results = runner.run(name, test or (), report)
                path = _result_path(work, tree.major, chosen, name)
                if test:
                    results = {**load(path), **results}
                seconds = round(time.monotonic() - started, 1)
                facts = {"postgresql": source, "side": chosen.value, "suite": name}
                save(path, results, {**facts, "seconds": seconds})
    compare(work, version, suite)
    if missing:
        raise typer.Exit(1)


@app.command()
def compare(
    work: WorkOption = DEFAULT_WORK, version: VersionOption = None, suite: SuiteOption = None
) -> None:
    """Show the results side by side; exit status 1 for unexpected differences."""
    expected = load_expected()
    rows = []
    found: list[Difference] = []
    for tree in _trees(work, version):
        for name in _chosen_suites(tree, suite):
            plain, tde = (load(_result_path(work, tree.major, side, name)) for side in Side)
            here = list(differences(tree.major, name, plain, tde, expected))
            rows.append((tree.major, name, plain, tde, here))
            found += here
    console.print(summary(rows))
    for difference in found:
        console.print(describe(difference), markup=False)
    if any(not difference.reason for difference in found):
        raise typer.Exit(1)


def _trees(work: Path, versions: list[int] | None) -> list[Tree]:
    unknown = set(versions or ()) - RELEASES.keys()
    if unknown:
        raise SuitesError(f"no source package is known for PostgreSQL {unknown.pop()}")
    return [Tree(major, work.resolve() / str(major)) for major in versions or RELEASES]


def _chosen_suites(tree: Tree, names: list[str] | None) -> list[str]:
    unknown = set(names or ()) - set(SUITES)
    if unknown:
        raise SuitesError(f"no suite {unknown.pop()}", remedy=f"There are: {', '.join(SUITES)}.")
    return [name for name in suites_of(tree) if not names or name in names]


def _result_path(work: Path, major: int, side: Side, suite: str) -> Path:
    return work.resolve() / "results" / f"{major}-{suite}-{side.value}.json"


def _print_result(label: str, name: str, result: TestResult) -> None:
    style = {PASS: "green", SKIP: "yellow"}.get(result.status, "bold red")
    again = f", attempt {result.attempts}" if result.attempts > 1 else ""
    words = f"{result.text} in {result.seconds:.0f} s{again}"
    console.print(f"{label}/{name}: [{style}]{words}[/]")


def main() -> None:
    """Run the command line; errors of these scripts become a message and its remedy."""
    # A supervisor's TERM must end tests and servers as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app()
    except TdeError as error:
        console.print(f"[bold red]error:[/] {error}")
        if error.remedy:
            console.print(f"[bold]hint:[/] {error.remedy}")
        sys.exit(1)


if __name__ == "__main__":
    main()
