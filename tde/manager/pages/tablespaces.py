"""Tablespaces: how each is stored, and new ones."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tde.errors import TdeError
from tde.manager.pages.servers import needs_passphrase
from tde.manager.web import (
    aes_in,
    begin,
    checked_form,
    look,
    page,
    passphrase_in,
    path_in,
    secret_option,
    server_of,
)
from tde.postgres.cluster.cluster import Cluster
from tde.postgres.tablespace.tablespaces import list_tablespaces

_LONGEST_NAME = 63


async def show(request: Request) -> Response:
    """Show the tablespaces of a running server."""
    server = server_of(request)
    found, problem = await look(lambda: list_tablespaces(Cluster(server.data_directory), None))
    status, _ = await look(lambda: Cluster(server.data_directory).status())
    return page(
        request,
        "tablespaces.html",
        server=server,
        found=found or [],
        problem=problem,
        status=status,
        needs_passphrase=await needs_passphrase(server),
    )


async def create(request: Request) -> Response:
    """Make a tablespace with a key of its own, as a job."""
    fields = await checked_form(request)
    server = server_of(request)
    name = _named(fields, "name")
    passphrase = passphrase_in(fields)
    step = [
        *("tablespace", "create", name, "-D", str(server.data_directory)),
        *("--location", str(path_in(fields, "location")), "--aes", aes_in(fields)),
        *secret_option(passphrase),
    ]
    return await begin(request, server, "tablespace-create", [step], passphrase)


async def act(request: Request) -> Response:
    """Lock, unlock, empty into another one, or encrypt anew, as a job."""
    fields = await checked_form(request)
    server, verb = server_of(request), request.path_params["verb"]
    cluster = ["-D", str(server.data_directory)]
    passphrase = passphrase_in(fields)
    secret = secret_option(passphrase)
    if verb in ("lock", "unlock"):
        step = ["tablespace", verb, *cluster, *secret, "--", _named(fields, "name")]
    elif verb == "move":
        step = ["tablespace", "move", *cluster, f"--from={_named(fields, 'name')}"]
        step += [f"--to={_named(fields, 'to')}", *secret]
    elif verb == "rekey":
        step = ["tablespace", "rekey", "--all", *cluster, *secret]
    else:
        raise TdeError(f"{verb!r} is nothing that is done with a tablespace")
    return await begin(request, server, f"tablespace-{verb}", [step], passphrase)


def _named(fields: Mapping[str, str], field: str) -> str:
    name = fields.get(field, "").strip()
    if not 0 < len(name.encode()) <= _LONGEST_NAME or not name.isprintable() or name[0] == "-":
        raise TdeError(f"{name!r} is no name of a tablespace")
    return name


ROUTES = [
    Route("/servers/{server}/tablespaces", show),
    Route("/servers/{server}/tablespaces", create, methods=["POST"]),
    Route("/servers/{server}/tablespaces/{verb}", act, methods=["POST"]),
]
