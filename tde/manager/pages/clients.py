"""Who may connect, by what the server has read of pg_hba.conf; and how to connect with psql."""

from __future__ import annotations

import shlex
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tde.manager.registry import Server
from tde.manager.web import look, page, server_of
from tde.postgres.cluster.cluster import Cluster
from tde.postgres.cluster.questions import ask_server

_QUESTION = """
SELECT json_build_object(
    'file', current_setting('hba_file'),
    'rules', (SELECT coalesce(json_agg(r ORDER BY line_number), '[]') FROM (
        SELECT line_number, type, database, user_name, address, netmask, auth_method, error
        FROM pg_hba_file_rules) r))
"""


async def show(request: Request) -> Response:
    """Show the rules, and the command of psql."""
    server = server_of(request)
    found, problem = await look(lambda: ask_server(Cluster(server.data_directory), _QUESTION))
    commands, _ = await look(lambda: _commands(server))
    return page(
        request,
        "clients.html",
        server=server,
        found=found,
        problem=problem,
        commands=commands or [],
    )


def _commands(server: Server) -> list[str]:
    """Return what somebody types on this machine."""
    cluster = Cluster(server.data_directory)
    if cluster.pid is None:
        return []
    parameters: dict[str, Any] = cluster.connection_parameters()
    options = ["-h", parameters["host"], "-p", parameters["port"], "-U", parameters["user"]]
    return [
        shlex.join(["tde", "psql", "-D", str(server.data_directory)]),
        shlex.join(["psql", *map(str, options), "postgres"]),
    ]


ROUTES = [Route("/servers/{server}/clients", show)]
