"""``tde-bench oltp``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from tde.algorithms import Algorithm
from tde.console.apps import examples
from tde.console.output import console, error_console
from tde_bench.cli.option_checks import (
    algorithms_of,
    check_memory_size,
    check_outputs,
    numbers,
    settings_of,
)
from tde_bench.cli.options import (
    ChartFileOption,
    ClientsOption,
    ComparedAesOption,
    ControlOption,
    CsvFileOption,
    DirectoryOption,
    DurationOption,
    ExistingOption,
    JobsOption,
    JsonFileOption,
    KeepOption,
    ProtocolOption,
    QuickOption,
    RateOption,
    RoundsOption,
    ScaleOption,
    SeedOption,
    ServerProgramsOption,
    SettingOption,
    SharedBuffersOption,
    SliceOption,
    WarmupOption,
    WorkloadOption,
)
from tde_bench.cli.runs import End, progress_and_saving, show_and_end, what_ended, write_files
from tde_bench.errors import BenchError
from tde_bench.workloads.names import WorkloadName

if TYPE_CHECKING:
    from tde_bench.configurations import Configuration
    from tde_bench.oltp.parameters import OltpParameters
    from tde_bench.oltp.results import OltpResult

_EPILOG = examples(
    "tde-bench oltp --aes 256",
    "tde-bench oltp --quick --chart oltp.png --json oltp.json",
    "tde-bench oltp --aes 256 --workload select-only",
    "# How the cost grows with the number of sessions, and with the size of the data:",
    "tde-bench oltp --aes 256 --clients 1,4,16,64 --chart clients.png",
    "tde-bench oltp --aes 256 --scale 5,20,80 --chart scale.png",
    "# How far two servers without encryption are apart in the same run:",
    "tde-bench oltp --aes 256 --control",
    "# Latency at a load that both can take:",
    "tde-bench oltp --aes 256 --rate 500",
    "# Servers that already run; the first one is what the others are compared with:",
    'tde-bench oltp --existing "host=/run/postgresql port=5432=plain" '
    '--existing "host=/run/postgresql port=5433=encrypted"',
)


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(epilog=_EPILOG)(oltp)


def oltp(
    aes: ComparedAesOption = None,
    existing: ExistingOption = None,
    control: ControlOption = False,
    workload: WorkloadOption = WorkloadName.TPCB,
    scale: ScaleOption = None,
    clients: ClientsOption = None,
    jobs: JobsOption = None,
    protocol: ProtocolOption = None,
    rate: RateOption = None,
    duration: DurationOption = None,
    slice_seconds: SliceOption = None,
    rounds: RoundsOption = None,
    warmup: WarmupOption = None,
    shared_buffers: SharedBuffersOption = None,
    setting: SettingOption = None,
    bindir: ServerProgramsOption = None,
    directory: DirectoryOption = None,
    keep: KeepOption = False,
    json_file: JsonFileOption = None,
    csv_file: CsvFileOption = None,
    chart_file: ChartFileOption = None,
    quick: QuickOption = False,
    seed: SeedOption = None,
) -> None:
    """Run transactions on ephemeral servers with and without encryption, in interleaved rounds.

    A canary row, searched for on disk, first proves that encryption is really on.
    """
    check_memory_size("--shared-buffers", shared_buffers)
    check_outputs([json_file, csv_file, chart_file], [chart_file])
    # Imported here, because pandas and SciPy take a second that `--help` should not wait for.
    from tde_bench.oltp.parameters import OltpParameters

    configurations = _configurations(aes or [], existing or [], control=control)
    parameters = OltpParameters.choose(
        name=workload,
        quick=quick,
        scale=numbers("--scale", scale),
        clients=numbers("--clients", clients),
        jobs=jobs,
        protocol=None if protocol is None else protocol.value,
        rate=rate,
        duration=duration,
        slice=slice_seconds,
        rounds=rounds,
        warmup=warmup,
        shared_buffers=shared_buffers,
        seed=seed,
        settings=settings_of(setting),
    )
    _check_parameters(parameters)
    result, end = _run(
        configurations, parameters, json_file, bindir=bindir, directory=directory, keep=keep
    )
    show_and_end(lambda: _present(result, csv_file, chart_file), end, measured=bool(result.runs))


def _run(
    configurations: list[Configuration],
    parameters: OltpParameters,
    json_file: Path | None,
    *,
    bindir: Path | None,
    directory: Path | None,
    keep: bool,
) -> tuple[OltpResult, End]:
    """Measure, saving after every turn; return the result and what ended the run early."""
    from tde_bench.oltp.benchmark import OltpBenchmark

    total = parameters.load_seconds(len(configurations))
    with progress_and_saving(total, json_file) as (observer, save):
        benchmark = OltpBenchmark(configurations, parameters, observer, save)
        end = what_ended(lambda: benchmark.run(bindir=bindir, directory=directory, keep=keep))
    return benchmark.result, end


def _configurations(
    aes: list[int], existing: list[str], *, control: bool = False
) -> list[Configuration]:
    """Decide what is compared; ephemeral clusters come first, so theirs is the baseline."""
    from tde_bench import configurations

    chosen: list[Configuration] = []
    if aes or control or not existing:
        algorithms = algorithms_of(aes) or list(Algorithm)
        chosen.extend(configurations.ephemeral(algorithms))
    if control:
        chosen.append(configurations.CONTROL)
    chosen.extend(configurations.existing(existing))
    return chosen


def _check_parameters(parameters: OltpParameters) -> None:
    """Refuse what means nothing, and say before the run what would surprise after it."""
    from tde_bench.workloads import catalogue

    name = WorkloadName(parameters.workload)
    chosen = catalogue.workload(name)
    if not chosen.options_apply and (parameters.rate or parameters.protocol != "simple"):
        raise BenchError(f"--rate and --protocol are options of pgbench, which {name.value} lacks")
    if not chosen.any_protocol and parameters.protocol != "simple":
        raise BenchError(f"{name.value} has only the simple protocol")
    clients, scale = max(parameters.clients), min(parameters.scale)
    if name is WorkloadName.TPCB and clients > scale:
        error_console.print(
            f"Note: {clients} clients update {scale} branches and so wait for each other's row "
            "locks; a scale of at least the number of clients avoids that."
        )


def _present(result: OltpResult, csv_file: Path | None, chart_file: Path | None) -> None:
    """Print the report and write the files that are made once, at the end."""
    from tde_bench.oltp.chart import write_chart
    from tde_bench.oltp.tables import print_report

    print_report(result, console)
    write_files(result, csv_file, chart_file, write_chart)
