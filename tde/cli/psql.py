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
from tde.postgres.server.os_user import become, user_environment

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
    environment = dict(os.environ)
    environment["PGHOST"] = str(parameters["host"])
    environment["PGPORT"] = str(parameters["port"])
    environment.setdefault("PGUSER", str(parameters["user"]))
    environment.setdefault("PGDATABASE", str(parameters["dbname"]))
    program = cluster.binaries.program("psql")
    if cluster.os_user is not None and _knows_peers(cluster):
        environment = user_environment(cluster.os_user, environment)
        become(cluster.os_user)
        if not os.access(".", os.X_OK):
            os.chdir("/")  # psql complains about a directory that it could not return to.
    os.execve(program, ["psql", *(arguments or ())], environment)


def _knows_peers(cluster: Cluster) -> bool:
    """Tell whether the server asks the kernel who connects to its socket."""
    query = "SELECT to_json('peer' IN (SELECT auth_method FROM pg_hba_file_rules))"
    try:
        return bool(ask_server(cluster, query))
    except TdeError:
        return False  # psql will say what the server says.
