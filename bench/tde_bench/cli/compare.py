"""``tde-bench compare``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tde.algorithms import Algorithm
from tde.console.apps import examples
from tde.console.output import console
from tde_bench.cli.option_checks import algorithms_of, check_memory_size, check_outputs
from tde_bench.cli.options import (
    ChartFileOption,
    ComparedAesOption,
    CsvFileOption,
    DirectoryOption,
    JsonFileOption,
    ServerProgramsOption,
)
from tde_bench.cli.runs import End, progress_and_saving, show_and_end, what_ended, write_files

if TYPE_CHECKING:
    from tde.postgres import PostgresBinaries
    from tde_bench.compare.peers import Peer
    from tde_bench.compare.results import CompareResult
    from tde_bench.oltp.parameters import OltpParameters

_EPILOG = examples(
    "tde-bench compare --json compare.json --chart compare.png",
    "tde-bench compare --quick",
    "# With a server that you already run, for example another product:",
    'tde-bench compare --existing "host=db.example dbname=postgres=other"',
)

ExistingPeerOption = Annotated[
    list[str] | None,
    typer.Option(
        "--existing",
        metavar="DSN[=LABEL]",
        help="Another server; may be repeated. A scratch database is created and dropped in it.",
    ),
]
PeerScaleOption = Annotated[
    int | None,
    typer.Option(min=1, help="pgbench scale, about 15 MB each. Default: 10; quick: 2."),
]
PeerClientsOption = Annotated[
    int | None, typer.Option(min=1, help="Concurrent sessions. Default: 4; quick: 2.")
]
PeerDurationOption = Annotated[
    int | None, typer.Option(min=1, help="Seconds per round and peer. Default: 10; quick: 3.")
]
PeerRoundsOption = Annotated[
    int | None, typer.Option(min=1, help="Interleaved rounds. Default: 6; quick: 2.")
]
PeerBuffersOption = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help="shared_buffers. Default: 16MB; quick: 4MB."),
]
PeerQuickOption = Annotated[
    bool, typer.Option("--quick", help="A short run (about a minute) for a first look.")
]
PeerSeedOption = Annotated[int | None, typer.Option(help="Seed of pgbench. Default: 1.")]


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(epilog=_EPILOG)(compare)


def compare(
    aes: ComparedAesOption = None,
    existing: ExistingPeerOption = None,
    scale: PeerScaleOption = None,
    clients: PeerClientsOption = None,
    duration: PeerDurationOption = None,
    rounds: PeerRoundsOption = None,
    shared_buffers: PeerBuffersOption = None,
    bindir: ServerProgramsOption = None,
    directory: DirectoryOption = None,
    json_file: JsonFileOption = None,
    csv_file: CsvFileOption = None,
    chart_file: ChartFileOption = None,
    quick: PeerQuickOption = False,
    seed: PeerSeedOption = None,
) -> None:
    """Run TPC-B on tde and its peers side by side: gocryptfs, LUKS, pgcrypto, other servers.

    A peer that cannot run here is reported as such, with the reason.
    """
    check_memory_size("--shared-buffers", shared_buffers)
    check_outputs([json_file, csv_file, chart_file], [chart_file])
    # Imported here, because pandas and SciPy take a second that `--help` should not wait for.
    from tde.postgres import find_binaries
    from tde_bench.compare.peers import all_peers

    binaries = find_binaries(bindir)
    algorithms = algorithms_of(aes) or [Algorithm.AES256]
    peers = all_peers(algorithms, existing or [], binaries)
    parameters = _parameters(quick).with_given(
        scale=None if scale is None else (scale,),
        clients=None if clients is None else (clients,),
        duration=duration,
        rounds=rounds,
        shared_buffers=shared_buffers,
        seed=seed,
    )
    result, end = _run(peers, parameters, binaries, directory, json_file)
    show_and_end(lambda: _present(result, csv_file, chart_file), end, measured=bool(result.runs))


def _parameters(quick: bool) -> OltpParameters:
    """Return defaults for up to half a dozen servers."""
    from tde_bench.oltp.parameters import OltpParameters

    if quick:
        return OltpParameters(
            scale=(2,), clients=(2,), duration=3, rounds=2, warmup=1, shared_buffers="4MB"
        )
    return OltpParameters(scale=(10,), duration=10, rounds=6, warmup=5, shared_buffers="16MB")


def _run(
    peers: list[Peer],
    parameters: OltpParameters,
    binaries: PostgresBinaries,
    directory: Path | None,
    json_file: Path | None,
) -> tuple[CompareResult, End]:
    """Measure, saving after every turn; return the result and what ended the run early."""
    from tde_bench.compare.benchmark import CompareBenchmark

    able = sum(peer.reason is None for peer in peers)
    with progress_and_saving(parameters.load_seconds(able), json_file) as (observer, save):
        benchmark = CompareBenchmark(peers, parameters, observer, save)
        end = what_ended(lambda: benchmark.run_peers(binaries, directory))
    return benchmark.result, end


def _present(result: CompareResult, csv_file: Path | None, chart_file: Path | None) -> None:
    """Print the report and write the files that are made once, at the end."""
    from tde_bench.compare.tables import print_report
    from tde_bench.oltp.chart import write_chart

    print_report(result, console)
    write_files(result, csv_file, chart_file, write_chart)
