"""The types of the options of ``tde-bench oltp``, some of which other commands have as well.

Most defaults depend on ``--quick``, so the option itself is ``None`` and the help spells them
out; a test holds the help to :class:`~tde_bench.oltp.parameters.OltpParameters`.
"""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from tde.console.options import AES_SIZES
from tde_bench.workloads.names import WorkloadName


class Protocol(str, enum.Enum):
    """The protocols that pgbench knows."""

    SIMPLE = "simple"
    EXTENDED = "extended"
    PREPARED = "prepared"


ComparedAesOption = Annotated[
    list[int] | None,
    typer.Option(
        "--aes",
        metavar=AES_SIZES,
        help="Compare no encryption with this AES key size; may be repeated. Default: both.",
    ),
]
ControlOption = Annotated[
    bool,
    typer.Option(
        "--control",
        help="Add a second server without encryption: what its ratio differs from 1 is the error "
        "of the measurement.",
    ),
]
ExistingOption = Annotated[
    list[str] | None,
    typer.Option(
        "--existing",
        metavar="DSN[=LABEL]",
        help="A server that you already run; may be repeated. A scratch database is created "
        "in it and dropped. Without --aes, only such servers are compared.",
    ),
]
WorkloadOption = Annotated[
    WorkloadName, typer.Option("--workload", help="What the sessions do. Default: tpcb.")
]
ScaleOption = Annotated[
    str | None,
    typer.Option(
        metavar="N[,N...]",
        help="pgbench scale, about 15 MB each. Default: 20; quick: 10. For tpcc: warehouses of "
        "about 100 MB, 3 or 1; for many-relations and partitions: thousands, 20 and 2. Several "
        "values make a sweep.",
    ),
]
ClientsOption = Annotated[
    str | None,
    typer.Option(
        metavar="N[,N...]",
        help="Concurrent sessions. Default: 4. For random-update: 16. Several values make a sweep.",
    ),
]
JobsOption = Annotated[int | None, typer.Option(min=1, help="Threads of pgbench. Default: 2.")]
ProtocolOption = Annotated[
    Protocol | None,
    typer.Option("--protocol", "--mode", help="How pgbench sends statements. Default: simple."),
]
RateOption = Annotated[
    float | None,
    typer.Option(
        min=0.001,
        metavar="TPS",
        help="Measure latency at this load instead of as many transactions as possible.",
    ),
]
DurationOption = Annotated[
    int | None,
    typer.Option(
        min=1, help="Seconds per round and configuration. Default: 15; quick: 4. Sweep: 8."
    ),
]
SliceOption = Annotated[
    int | None,
    typer.Option(
        "--slice",
        min=1,
        help="Seconds that a configuration runs before the next takes over. Default: 1. With "
        "--rate, over 32 clients or tpcc: 5.",
    ),
]
RoundsOption = Annotated[
    int | None, typer.Option(min=1, help="Interleaved rounds. Default: 12; quick: 3. Sweep: 6.")
]
WarmupOption = Annotated[
    int | None,
    typer.Option(
        min=0, help="Uncounted seconds before the rounds. Default: 10; quick: 2. Sweep: 5."
    ),
]
SharedBuffersOption = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="shared_buffers of the ephemeral servers. Default: 32MB; quick: 16MB.",
    ),
]
SettingOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="A setting of all ephemeral servers, for example io_method=sync; may be repeated.",
    ),
]
ServerProgramsOption = Annotated[
    Path | None,
    typer.Option(
        "--bindir", metavar="DIR", help="The PostgreSQL programs to use. Default: search."
    ),
]
DirectoryOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        exists=True,
        file_okay=False,
        help="Where the ephemeral servers live. Default: a temporary directory on a disk.",
    ),
]
KeepOption = Annotated[
    bool,
    typer.Option(
        "--keep", help="Leave the stopped clusters behind, with their passphrase in a file."
    ),
]
JsonFileOption = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write everything as JSON.")
]
CsvFileOption = Annotated[
    Path | None, typer.Option("--csv", metavar="FILE", help="Write the raw runs as CSV.")
]
ChartFileOption = Annotated[
    Path | None, typer.Option("--chart", metavar="FILE", help="Draw a bar chart; .png or .svg.")
]
QuickOption = Annotated[
    bool, typer.Option("--quick", help="A short run (under 90 seconds) for a first look.")
]
SeedOption = Annotated[int | None, typer.Option(help="Seed of pgbench. Default: 1.")]
