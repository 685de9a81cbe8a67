"""``tde psql``: psql on the server of a data directory."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from tde.cli.options import BindirOption, PgDataOption
from tde.console.apps import examples, new_app
from tde.postgres.cluster.access import find_cluster

app = new_app("Open psql on a cluster that tde started.")


@app.command(
    epilog=examples(
        "tde psql -D /srv/pg/main",
        "tde psql -D /srv/pg/main -- -U app -d shop -c 'SELECT count(*) FROM orders'",
    )
)
def psql(
    pgdata: PgDataOption,
    bindir: BindirOption = None,
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[-- PSQL_ARGS]", help="Passed to psql.")
    ] = None,
) -> None:
    """Open psql on the server that runs in a data directory.

    Connects as the superuser to the database postgres, unless PGUSER, PGDATABASE or psql's own
    arguments say otherwise.
    """
    cluster = find_cluster(pgdata, bindir, None)
    parameters = cluster.connection_parameters()
    environment = dict(os.environ)
    environment["PGHOST"] = str(parameters["host"])
    environment["PGPORT"] = str(parameters["port"])
    environment.setdefault("PGUSER", str(parameters["user"]))
    environment.setdefault("PGDATABASE", str(parameters["dbname"]))
    program = cluster.binaries.program("psql")
    os.execve(program, ["psql", *(arguments or ())], environment)
