"""``tde-bench pages``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tde.algorithms import Algorithm
from tde.console.apps import examples
from tde.console.output import console
from tde.machine.capabilities import OWN
from tde_bench.cli.option_checks import algorithms_of, check_outputs
from tde_bench.cli.options import ChartFileOption, ComparedAesOption, CsvFileOption, JsonFileOption
from tde_bench.cli.runs import End, progress_and_saving, show_and_end, what_ended, write_files
from tde_bench.errors import BenchError

if TYPE_CHECKING:
    from tde_bench.pages.backends import Backend
    from tde_bench.pages.benchmark import PagesParameters
    from tde_bench.pages.results import PagesResult

_EPILOG = examples(
    "tde-bench pages --json pages.json --chart pages.png",
    "tde-bench pages --quick",
    "# Only the product, AES-256, batches of 1 and 8 MiB:",
    "tde-bench pages --backend tde --aes 256 --pages 128 --pages 1024",
    "# Without the CPU's AES instructions, for the product and its limit:",
    f"{OWN.variable}={OWN.without_aes} tde-bench pages --backend tde",
)

BackendOption = Annotated[
    list[str] | None,
    typer.Option(
        help="tde, cryptography, mbedtls, pycryptodome or pycryptodome-software; may be repeated. "
        "Default: all."
    ),
]
PagesOption = Annotated[
    list[int] | None,
    typer.Option(
        min=1,
        max=65536,
        help="Pages of 8 KiB per batch; may be repeated. "
        "Default: 1, 16, 128, 512, 2048; quick: 1, 128.",
    ),
]
ThreadsOption = Annotated[
    list[int] | None,
    typer.Option(min=1, max=64, help="Threads per batch; may be repeated. Default: 1, 2."),
]
PagesRoundsOption = Annotated[
    int | None, typer.Option(min=1, help="Interleaved rounds. Default: 12; quick: 3.")
]
SampleOption = Annotated[
    float | None,
    typer.Option(min=0.001, help="CPU seconds of each sample. Default: 0.1; quick: 0.05."),
]
PagesQuickOption = Annotated[
    bool, typer.Option("--quick", help="A short run (under 60 seconds) for a first look.")
]


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(epilog=_EPILOG)(pages)


def pages(
    backend: BackendOption = None,
    aes: ComparedAesOption = None,
    pages: PagesOption = None,
    threads: ThreadsOption = None,
    rounds: PagesRoundsOption = None,
    sample: SampleOption = None,
    json_file: JsonFileOption = None,
    csv_file: CsvFileOption = None,
    chart_file: ChartFileOption = None,
    quick: PagesQuickOption = False,
) -> None:
    """Measure the page cipher alone: backends, batch sizes and threads, next to openssl speed.

    Where a second libcrypto encrypts pages, the system's is measured beside it. All backends must
    first give the same ciphertext. Needs no server.
    """
    check_outputs([json_file, csv_file, chart_file], [chart_file])
    # Imported here, because pandas and SciPy take a second that `--help` should not wait for.
    from tde_bench.pages.benchmark import PagesParameters

    parameters = (PagesParameters.quick() if quick else PagesParameters()).with_given(
        pages=_sorted(pages), threads=_sorted(threads), rounds=rounds, sample=sample
    )
    algorithms = algorithms_of(aes) or list(Algorithm)
    result, end = _run(_chosen(backend), algorithms, parameters, json_file)
    show_and_end(lambda: _present(result, csv_file, chart_file), end, measured=bool(result.runs))


def _sorted(values: list[int] | None) -> tuple[int, ...] | None:
    return tuple(sorted(set(values))) if values else None


def _chosen(names: list[str] | None) -> list[Backend]:
    """Return the backends to measure, in the order of the product's own list."""
    from tde_bench.pages.backends import all_backends

    backends = all_backends()
    known = [backend.name for backend in backends]
    for name in names or []:
        if name not in known:
            raise BenchError(f"there is no backend {name}", remedy=f"Choose of {', '.join(known)}.")
    return [backend for backend in backends if not names or backend.name in names]


def _run(
    backends: list[Backend],
    algorithms: list[Algorithm],
    parameters: PagesParameters,
    json_file: Path | None,
) -> tuple[PagesResult, End]:
    """Measure, saving after every round; return the result and what ended the run early."""
    from tde_bench.pages.benchmark import PagesBenchmark

    with progress_and_saving(parameters.rounds * len(algorithms), json_file) as (observer, save):
        benchmark = PagesBenchmark(backends, algorithms, parameters, observer, save)
        end = what_ended(benchmark.run)
    return benchmark.result, end


def _present(result: PagesResult, csv_file: Path | None, chart_file: Path | None) -> None:
    """Print the report and write the files that are made once, at the end."""
    from tde_bench.pages.chart import write_chart
    from tde_bench.pages.tables import print_report

    print_report(result, console)
    write_files(result, csv_file, chart_file, write_chart)
