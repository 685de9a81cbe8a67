"""``tde-bench io``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tde.algorithms import Algorithm
from tde.console.apps import examples
from tde.console.output import console
from tde_bench.cli.option_checks import algorithms_of, check_outputs
from tde_bench.cli.options import ChartFileOption, CsvFileOption, DirectoryOption, JsonFileOption
from tde_bench.cli.runs import End, progress_and_saving, show_and_end, what_ended, write_files

if TYPE_CHECKING:
    from tde_bench.io.benchmark import IoParameters
    from tde_bench.io.results import IoResult

_EPILOG = examples(
    "tde-bench io --json io.json --chart io.png",
    "tde-bench io --quick",
    "# With both key sizes, on a disk:",
    "tde-bench io --aes 128 --aes 256 --directory /var/tmp",
)

AesOption = Annotated[
    list[int] | None,
    typer.Option("--aes", metavar="128|256", help="AES key size; may be repeated. Default: 256."),
]
TraceOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--trace",
        metavar="FILE",
        exists=True,
        dir_okay=False,
        help="Calls that make io-traces has recorded; may be repeated. Default: those that are "
        "brought along, of PostgreSQL 15 and 18.",
    ),
]
IoRoundsOption = Annotated[
    int | None, typer.Option(min=2, help="Interleaved rounds. Default: 40; quick: 6.")
]
IoQuickOption = Annotated[
    bool, typer.Option("--quick", help="A short run (half a minute) for a first look.")
]


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("io", epilog=_EPILOG)(replay)


def replay(
    aes: AesOption = None,
    trace: TraceOption = None,
    rounds: IoRoundsOption = None,
    directory: DirectoryOption = None,
    json_file: JsonFileOption = None,
    csv_file: CsvFileOption = None,
    chart_file: ChartFileOption = None,
    quick: IoQuickOption = False,
) -> None:
    """Make PostgreSQL's recorded file I/O again, call by call, with encryption and without.

    Tells in nanoseconds what a call and a page cost more, and how much of it is the cipher. Needs
    no server; files are in memory unless --directory says otherwise.
    """
    check_outputs([json_file, csv_file, chart_file], [chart_file])
    # Imported here, because pandas and SciPy take a second that `--help` should not wait for.
    from tde_bench.io.benchmark import IoParameters

    parameters = (IoParameters.quick() if quick else IoParameters()).with_given(rounds=rounds)
    algorithms = algorithms_of(aes) or [Algorithm.AES256]
    result, end = _run(algorithms, trace or [], parameters, json_file, directory)
    show_and_end(lambda: _present(result, csv_file, chart_file), end, measured=bool(result.runs))


def _run(
    algorithms: list[Algorithm],
    files: list[Path],
    parameters: IoParameters,
    json_file: Path | None,
    directory: Path | None,
) -> tuple[IoResult, End]:
    """Measure, saving after every trace; return the result and what ended the run early."""
    from tde_bench.io.benchmark import IoBenchmark, io_configurations
    from tde_bench.io.trace import own_traces, read_traces

    traces = list(read_traces(files)) if files else own_traces()
    with progress_and_saving(len(traces), json_file) as (observer, save):
        benchmark = IoBenchmark(io_configurations(algorithms), traces, parameters, observer, save)
        end = what_ended(lambda: benchmark.run(directory))
    return benchmark.result, end


def _present(result: IoResult, csv_file: Path | None, chart_file: Path | None) -> None:
    """Print the report and write the files that are made once, at the end."""
    from tde_bench.io.chart import write_chart
    from tde_bench.io.tables import print_report

    print_report(result, console)
    write_files(result, csv_file, chart_file, write_chart)
