"""The command line of the benchmarks."""

from __future__ import annotations

import re
import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tde.cli.common import console, error_console, examples, reporting_errors
from tde.errors import TdeError
from tde_bench.errors import BenchError
from tde_bench.lifecycle import INTERRUPTED_EXIT_CODE, signals_interrupt

if TYPE_CHECKING:
    from tde_bench.configurations import Configuration
    from tde_bench.results import OltpResult

# The packages of the optional dependency `bench`.
_BENCH_PACKAGES = frozenset({"matplotlib", "numpy", "pandas", "scipy"})
_CHART_SUFFIXES = (".png", ".svg")
_MEMORY_SIZE = re.compile(r"\d+(kB|MB|GB)")

app = typer.Typer(
    help="Measure what encrypting PostgreSQL's storage costs.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


class AesBits(str, Enum):
    """The AES key sizes that can be compared with no encryption."""

    AES128 = "128"
    AES256 = "256"


@app.callback()
def root() -> None:
    """Keep `oltp` a command of its own even while it is the only one."""


@app.command(
    epilog=examples(
        "tde-bench oltp --aes 256",
        "tde-bench oltp --quick --chart oltp.png --json oltp.json",
        "# Servers that already run; the first one is what the others are compared with:",
        'tde-bench oltp --existing "host=/run/postgresql port=5432=plain" '
        '--existing "host=/run/postgresql port=5433=encrypted"',
    )
)
def oltp(
    aes: Annotated[
        list[AesBits] | None,
        typer.Option(
            "--aes",
            help="Compare no encryption with this AES key size; may be repeated. Default: both.",
        ),
    ] = None,
    existing: Annotated[
        list[str] | None,
        typer.Option(
            "--existing",
            metavar="DSN[=LABEL]",
            help="A server that you already run; may be repeated. A scratch database is created "
            "in it and dropped. Without --aes, only such servers are compared.",
        ),
    ] = None,
    scale: Annotated[
        int | None,
        typer.Option(min=1, help="pgbench scale, about 15 MB each. Default: 20; quick: 10."),
    ] = None,
    clients: Annotated[
        int | None, typer.Option(min=1, help="Concurrent sessions. Default: 4.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Threads of pgbench. Default: 2.")] = None,
    duration: Annotated[
        int | None,
        typer.Option(min=1, help="Seconds per round and configuration. Default: 15; quick: 4."),
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Interleaved rounds. Default: 12; quick: 3.")
    ] = None,
    warmup: Annotated[
        int | None,
        typer.Option(min=0, help="Uncounted seconds before the rounds. Default: 10; quick: 2."),
    ] = None,
    shared_buffers: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="shared_buffers of the ephemeral servers. Default: 32MB; quick: 16MB.",
        ),
    ] = None,
    bindir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The PostgreSQL programs to use. Default: search."),
    ] = None,
    directory: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            exists=True,
            file_okay=False,
            help="Where the ephemeral servers live. Default: a temporary directory on a disk.",
        ),
    ] = None,
    keep: Annotated[
        bool,
        typer.Option(
            "--keep", help="Leave the stopped clusters behind, with their passphrase in a file."
        ),
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write everything as JSON.")
    ] = None,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write the raw runs as CSV.")
    ] = None,
    chart_file: Annotated[
        Path | None,
        typer.Option("--chart", metavar="FILE", help="Draw a bar chart; .png or .svg."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A short run (under 90 seconds) for a first look.")
    ] = False,
    seed: Annotated[
        int | None, typer.Option(help="Seed of pgbench and of the bootstrap. Default: 1.")
    ] = None,
) -> None:
    """Run pgbench TPC-B on ephemeral servers with and without encryption, in interleaved rounds.

    A canary row, searched for on disk, first proves that encryption is really on.
    """
    _check_options(shared_buffers, [json_file, csv_file, chart_file], chart_file)
    # Imported here, because pandas and SciPy take a second that `--help` should not wait for.
    from tde_bench.oltp import OltpBenchmark, OltpParameters
    from tde_bench.progress import live_progress
    from tde_bench.results import write_json

    configurations = _configurations(aes or [], existing or [])
    defaults = OltpParameters.quick() if quick else OltpParameters()
    parameters = defaults.with_given(
        scale=scale,
        clients=clients,
        jobs=jobs,
        duration=duration,
        rounds=rounds,
        warmup=warmup,
        shared_buffers=shared_buffers,
        seed=seed,
    )
    _explain(parameters.clients, parameters.scale)

    def save(result: OltpResult) -> None:
        if json_file is not None:
            write_json(result, json_file)

    total = parameters.load_seconds(len(configurations))
    with live_progress(error_console, total) as observer:
        benchmark = OltpBenchmark(configurations, parameters, observer, save)
        interrupted = False
        with signals_interrupt():
            try:
                benchmark.run(bindir=bindir, directory=directory, keep=keep)
            except KeyboardInterrupt:
                interrupted = True
    _present(benchmark.result, csv_file, chart_file)
    if interrupted:
        error_console.print("Interrupted. What was measured until then is above.")
        raise typer.Exit(INTERRUPTED_EXIT_CODE)


def _check_options(
    shared_buffers: str | None, outputs: list[Path | None], chart_file: Path | None
) -> None:
    """Refuse options that would only fail after the run, when minutes of work are lost."""
    if shared_buffers is not None and not _MEMORY_SIZE.fullmatch(shared_buffers):
        raise BenchError(f"--shared-buffers {shared_buffers} is not a size", remedy="Example: 64MB")
    if chart_file is not None and chart_file.suffix.lower() not in _CHART_SUFFIXES:
        raise BenchError(
            f"--chart {chart_file}: the name must end in {' or '.join(_CHART_SUFFIXES)}"
        )
    for path in outputs:
        if path is not None and not path.absolute().parent.is_dir():
            raise BenchError(f"the directory of {path} does not exist")


def _configurations(aes: list[AesBits], existing: list[str]) -> list[Configuration]:
    """Decide what is compared; ephemeral clusters come first, so theirs is the baseline."""
    from tde_bench import configurations

    chosen: list[Configuration] = []
    if aes or not existing:
        bits = [int(size.value) for size in aes or list(AesBits)]
        chosen.extend(configurations.ephemeral(bits))
    chosen.extend(configurations.existing(existing))
    return chosen


def _explain(clients: int, scale: int) -> None:
    """Say before the run what would surprise after it."""
    if clients > scale:
        error_console.print(
            f"Note: {clients} clients update {scale} branches and so wait for each other's row "
            "locks; a scale of at least the number of clients avoids that."
        )


def _present(result: OltpResult, csv_file: Path | None, chart_file: Path | None) -> None:
    """Print the report and write the files that are made once, at the end."""
    from tde_bench.chart import write_chart
    from tde_bench.report import print_report
    from tde_bench.results import write_csv

    print_report(result, console)
    if csv_file is not None:
        write_csv(result, csv_file)
    if chart_file is not None and result.runs:
        write_chart(result, chart_file)


def main() -> None:
    """Run the command line; the console script ``tde-bench`` starts here."""
    try:
        with reporting_errors("tde-bench"):
            _require_bench_packages()
            app(prog_name="tde-bench", standalone_mode=True)
    except typer.Exit as stop:
        sys.exit(stop.exit_code)


def _require_bench_packages() -> None:
    """Say what to install when the optional dependencies are missing.

    Raises:
        TdeError: naming the first missing package.
    """
    from importlib.util import find_spec

    for package in sorted(_BENCH_PACKAGES):
        if find_spec(package) is None:
            raise TdeError(
                f"the package {package} is missing", remedy="Install it: pip install 'tde[bench]'"
            )
