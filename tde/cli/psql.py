"""``tde psql``: psql on the server of a data directory."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from tde.cli.options import BindirOption, PgDataOption
from tde.console.apps import examples, new_app
from tde.errors import TdeError
from tde.postgres.cluster.access import find_cluster
from tde.postgres.cluster.cluster import Cluster
from tde.postgres.cluster.questions import ask_server
from tde.postgres.server.program import execute_program

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
    arguments say otherwise. Where the server knows its superuser by peer authentication only, as
    Debian's do, root runs psql as the user that runs the server.
    """
    cluster = find_cluster(pgdata, bindir, None)
    parameters = cluster.connection_parameters()
    as_peer = cluster.os_user is not None and _knows_peers(cluster)
    execute_program(
        cluster.binaries,
        "psql",
        arguments or (),
        os_user=cluster.os_user if as_peer else None,
        environment={
            "PGHOST": str(parameters["host"]),
            "PGPORT": str(parameters["port"]),
            "PGUSER": os.environ.get("PGUSER", str(parameters["user"])),
            "PGDATABASE": os.environ.get("PGDATABASE", str(parameters["dbname"])),
        },
    )


def _knows_peers(cluster: Cluster) -> bool:
    """Tell whether the server asks the kernel who connects to its socket."""
    query = "SELECT to_json('peer' IN (SELECT auth_method FROM pg_hba_file_rules))"
    try:
        return bool(ask_server(cluster, query))
    except TdeError:
        return False  # psql will say what the server says.
