"""The types of the options of ``tde-bench oltp``.

Most defaults depend on ``--quick``, so the option itself is ``None`` and the help spells them
out; a test holds the help to :class:`~tde_bench.oltp.OltpParameters`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tde.cli.options import AES_SIZES

AesListOption = Annotated[
    list[int] | None,
    typer.Option(
        "--aes",
        metavar=AES_SIZES,
        help="Compare no encryption with this AES key size; may be repeated. Default: both.",
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
ScaleOption = Annotated[
    int | None,
    typer.Option(min=1, help="pgbench scale, about 15 MB each. Default: 20; quick: 10."),
]
ClientsOption = Annotated[int | None, typer.Option(min=1, help="Concurrent sessions. Default: 4.")]
JobsOption = Annotated[int | None, typer.Option(min=1, help="Threads of pgbench. Default: 2.")]
DurationOption = Annotated[
    int | None,
    typer.Option(min=1, help="Seconds per round and configuration. Default: 15; quick: 4."),
]
RoundsOption = Annotated[
    int | None, typer.Option(min=1, help="Interleaved rounds. Default: 12; quick: 3.")
]
WarmupOption = Annotated[
    int | None,
    typer.Option(min=0, help="Uncounted seconds before the rounds. Default: 10; quick: 2."),
]
SharedBuffersOption = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="shared_buffers of the ephemeral servers. Default: 32MB; quick: 16MB.",
    ),
]
BindirOption = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="The PostgreSQL programs to use. Default: search."),
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
SeedOption = Annotated[
    int | None, typer.Option(help="Seed of pgbench and of the bootstrap. Default: 1.")
]
