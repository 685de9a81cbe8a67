"""``tde-bench batch``."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tde.algorithms import Algorithm
from tde.console.apps import examples
from tde.console.output import console
from tde_bench.cli.option_checks import (
    algorithms_of,
    check_memory_size,
    check_outputs,
    settings_of,
)
from tde_bench.cli.options import (
    ChartFileOption,
    ComparedAesOption,
    CsvFileOption,
    DirectoryOption,
    JsonFileOption,
    KeepOption,
    ServerProgramsOption,
    SettingOption,
)
from tde_bench.cli.runs import End, progress_and_saving, show_and_end, what_ended, write_files

if TYPE_CHECKING:
    from tde_bench.batch.benchmark import BatchParameters
    from tde_bench.batch.results import BatchResult
    from tde_bench.configurations import Configuration

_EPILOG = examples(
    "tde-bench batch --json batch.json --chart batch.png",
    "tde-bench batch --quick",
    "# Without the bars in software, for more rounds in the same time:",
    "tde-bench batch --aes 256 --cipher hardware --rounds 12",
)


class Cipher(str, enum.Enum):
    """How OpenSSL computes AES."""

    BOTH = "both"
    HARDWARE = "hardware"
    SOFTWARE = "software"


BatchScaleOption = Annotated[
    int | None,
    typer.Option(
        min=1, help="Size of the table, 100 000 rows or about 16 MB each. Default: 5; quick: 1."
    ),
]
BatchBuffersOption = Annotated[
    str | None,
    typer.Option(
        "--shared-buffers",
        metavar="SIZE",
        help="shared_buffers of the servers. Default: 16MB; quick: 4MB.",
    ),
]
BatchRoundsOption = Annotated[
    int | None,
    typer.Option(min=1, help="Rounds through all phases. Default: 6; quick: 2."),
]
CipherOption = Annotated[
    Cipher,
    typer.Option(
        "--cipher",
        help="Compare AES with the CPU's instructions, without them (software), or both.",
    ),
]
BatchQuickOption = Annotated[
    bool, typer.Option("--quick", help="A short run (about 90 seconds) for a first look.")
]


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(epilog=_EPILOG)(batch)


def batch(
    aes: ComparedAesOption = None,
    cipher: CipherOption = Cipher.BOTH,
    scale: BatchScaleOption = None,
    rounds: BatchRoundsOption = None,
    shared_buffers: BatchBuffersOption = None,
    setting: SettingOption = None,
    bindir: ServerProgramsOption = None,
    directory: DirectoryOption = None,
    keep: KeepOption = False,
    json_file: JsonFileOption = None,
    csv_file: CsvFileOption = None,
    chart_file: ChartFileOption = None,
    quick: BatchQuickOption = False,
) -> None:
    """Time sequential and rewrite work, phase by phase, with and without encryption and AES-NI.

    Thirteen phases from COPY to crash recovery, each on every server before the next one begins.
    """
    check_memory_size("--shared-buffers", shared_buffers)
    check_outputs([json_file, csv_file, chart_file], [chart_file])
    # Imported here, because pandas and SciPy take a second that `--help` should not wait for.
    from tde_bench.batch.benchmark import BatchParameters

    parameters = (BatchParameters.quick() if quick else BatchParameters()).with_given(
        scale=scale,
        rounds=rounds,
        shared_buffers=shared_buffers,
        settings=settings_of(setting),
    )
    result, end = _run(
        _configurations(aes or [], cipher),
        parameters,
        json_file,
        bindir=bindir,
        directory=directory,
        keep=keep,
    )
    show_and_end(lambda: _present(result, csv_file, chart_file), end, measured=bool(result.runs))


def _configurations(aes: list[int], cipher: Cipher) -> list[Configuration]:
    """Decide what is compared; the plain cluster comes first and is the baseline."""
    from tde_bench import configurations

    algorithms = algorithms_of(aes) or list(Algorithm)
    bars = configurations.software_and_hardware(algorithms)
    if cipher is Cipher.BOTH:
        return bars
    wanted = cipher is Cipher.SOFTWARE
    return [bar for bar in bars if bar.algorithm is None or bar.software == wanted]


def _run(
    configurations: list[Configuration],
    parameters: BatchParameters,
    json_file: Path | None,
    *,
    bindir: Path | None,
    directory: Path | None,
    keep: bool,
) -> tuple[BatchResult, End]:
    """Measure, saving after every phase; return the result and what ended the run early."""
    from tde_bench.batch.benchmark import BatchBenchmark, turns

    with progress_and_saving(turns(configurations, parameters), json_file) as (observer, save):
        benchmark = BatchBenchmark(configurations, parameters, observer, save)
        end = what_ended(lambda: benchmark.run(bindir=bindir, directory=directory, keep=keep))
    return benchmark.result, end


def _present(result: BatchResult, csv_file: Path | None, chart_file: Path | None) -> None:
    """Print the report and write the files that are made once, at the end."""
    from tde_bench.batch.chart import write_chart
    from tde_bench.batch.tables import print_report

    print_report(result, console)
    write_files(result, csv_file, chart_file, write_chart)
