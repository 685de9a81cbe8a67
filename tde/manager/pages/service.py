"""A server: what it is, starting and stopping it, its log."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from tde.errors import TdeError
from tde.manager.pages.servers import look_over, needs_passphrase
from tde.manager.registry import Server
from tde.manager.web import (
    begin,
    checked_form,
    look,
    manager_of,
    page,
    passphrase_in,
    secret_option,
    server_of,
)
from tde.postgres.cluster.cluster import Cluster
from tde.postgres.server.cluster_files import read_end
from tde.postgres.server.file_user import files_as

_LOG_BYTES = 32 << 10
_MODES = ("smart", "fast", "immediate")


async def show(request: Request) -> Response:
    """Show the server."""
    server = server_of(request)
    manager = manager_of(request)
    # At once, because each may wait long for a disk that hangs.
    overview, (status, problem), needs, log_end = await asyncio.gather(
        look_over(server, manager.jobs.running(server.id)),
        look(lambda: Cluster(server.data_directory).status()),
        needs_passphrase(server),
        _shown_log(server),
    )
    return page(
        request,
        "service.html",
        server=server,
        overview=overview,
        status=status,
        problem=problem,
        needs_passphrase=needs,
        log=log_end,
        jobs=manager.jobs.recent(server.id, 5),
    )


async def _shown_log(server: Server) -> str:
    """Return the end of the log; nothing where it cannot be read."""

    def end() -> str:
        cluster = Cluster(server.data_directory)
        with files_as(cluster.os_user):
            return read_end(cluster.default_log, 0, _LOG_BYTES).decode("utf-8", "replace")

    found, _ = await look(end)
    return found or ""


async def log(request: Request) -> Response:
    """Return the end of the log."""
    return PlainTextResponse(await _shown_log(server_of(request)))


async def act(request: Request) -> Response:
    """Start, stop, restart or reload the server, as a job."""
    fields = await checked_form(request)
    server, verb = server_of(request), request.path_params["verb"]
    directory = ["-D", str(server.data_directory)]
    passphrase = passphrase_in(fields)
    secret = secret_option(passphrase)
    mode = fields.get("mode", "fast")
    if mode not in _MODES:
        raise TdeError(f"{mode!r} is no way to stop a server")
    steps = {
        "start": ["pg", "start", *directory, *secret],
        "start-closed": ["pg", "start", *directory, "--closed", *secret],
        "stop": ["pg", "stop", *directory, "-m", mode],
        "restart": ["pg", "restart", *directory, "-m", mode, *secret],
        "reload": ["psql", *directory, "--", "-Xqc", "SELECT pg_reload_conf()"],
    }
    if verb not in steps:
        raise TdeError(f"{verb!r} is nothing that is done with a server")
    return await begin(request, server, verb, [steps[verb]], passphrase)


ROUTES = [
    Route("/servers/{server}", show),
    Route("/servers/{server}/log", log),
    Route("/servers/{server}/service/{verb}", act, methods=["POST"]),
]
