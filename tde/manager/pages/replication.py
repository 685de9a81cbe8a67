"""Who follows whom, the steps of a standby on both sides, and changing roles."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tde.errors import TdeError
from tde.manager.pages.servers import (
    checked_port,
    keystore_of,
    needs_passphrase,
    step_to_keep_port,
)
from tde.manager.registry import Server
from tde.manager.web import (
    begin,
    checked_form,
    look,
    manager_of,
    page,
    passphrase_in,
    path_in,
    read,
    secret_option,
    server_of,
)
from tde.postgres.cluster.cluster import Cluster
from tde.replication.status import replication_status

_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
# What a form may say of another server: no quotes, no options, no passwords.
_CONNINFO = re.compile(r"(?:(?:host|port|user|dbname|sslmode|application_name)=[\w./:@-]+ ?)+")


async def show(request: Request) -> Response:
    """Show what a running server knows of the others."""
    server = server_of(request)
    found, problem = await look(lambda: replication_status(Cluster(server.data_directory)))
    return page(
        request,
        "replication.html",
        server=server,
        found=found,
        problem=problem,
        needs_passphrase=await needs_passphrase(server),
    )


def _conninfo(server: Server) -> str:
    """Return how another server on this machine reaches it; empty where it does not run."""
    try:
        parameters = Cluster(server.data_directory).connection_parameters()
    except TdeError:
        return ""
    return " ".join(f"{name}={parameters[name]}" for name in ("host", "port", "user"))


async def prepare(request: Request) -> Response:
    """Prepare the primary's side, as a job."""
    fields = await checked_form(request)
    server = server_of(request)
    step = ["pg", "primary", "-D", str(server.data_directory)]
    if network := fields.get("network", "").strip():
        try:
            step += ["--from", str(ipaddress.ip_network(network))]
        except ValueError as error:
            raise TdeError(f"{network!r} is no network: {error}") from error
    for option in ("slot", "sync"):
        if name := fields.get(option, "").strip():
            step += [f"--{option}", _named(name)]
    return await begin(request, server, "primary", [step])


async def make_standby(request: Request) -> Response:
    """Make a standby of the server, register it, and start it, as a job."""
    fields = await checked_form(request)
    primary, manager = server_of(request), manager_of(request)
    directory, keystore = path_in(fields, "data_directory"), path_in(fields, "keystore")
    passphrase = passphrase_in(fields)
    secret = secret_option(passphrase)
    steps = await read(lambda: _steps_to_standby(primary, directory, keystore, fields, secret))
    made = manager.registry.add(fields.get("label", ""), directory, None, keystore)
    return await begin(request, made, "standby", steps, passphrase)


def _steps_to_standby(
    primary: Server, directory: Path, keystore: Path, fields: Mapping[str, str], secret: list[str]
) -> list[list[str]]:
    conninfo = fields.get("conninfo", "").strip() or _conninfo(primary)
    if not _CONNINFO.fullmatch(conninfo):
        raise TdeError(
            f"{conninfo!r} names no server",
            remedy="For example: host=192.168.1.11 port=5432 user=repli. A password belongs into "
            "the .pgpass of the server's user.",
        )
    steps = []
    if Cluster(primary.data_directory).marker is not None and not keystore.exists():
        # A copy of its own: the keys before the data.
        steps.append(["keystore", "sync", str(keystore), "-k", str(keystore_of(primary))])
    step = ["pg", "standby", str(directory), "--primary", conninfo, "-k", str(keystore)]
    if port := fields.get("port", "").strip():
        step += ["-o", f"-p {checked_port(port)}"]
    if slot := fields.get("slot", "").strip():
        step += ["--slot", _named(slot)]
    if fields.get("sync") == "yes":
        step.append("--sync")
    for old, new in _mapping(fields.get("mapping", "")):
        step += ["-T", f"{old}={new}"]
    steps.append([*step, *secret])
    if port:
        steps.append(step_to_keep_port(directory, port))
    return steps


def _mapping(text: str) -> list[tuple[str, str]]:
    pairs = []
    for line in text.split("\n"):
        if line.strip():
            old, equals, new = line.strip().partition("=")
            if not equals or not all(Path(one).is_absolute() for one in (old, new)):
                raise TdeError(f"{line.strip()!r} is not OLD=NEW, two absolute paths")
            pairs.append((old, new))
    return pairs


def _named(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise TdeError(f"{name!r}: lower-case letters, digits and underscores only")
    return name


async def change_roles(request: Request) -> Response:
    """Promote, bring back as a standby, or change roles, as a job."""
    fields = await checked_form(request)
    server, verb = server_of(request), request.path_params["verb"]
    cluster = ["-D", str(server.data_directory)]
    passphrase = passphrase_in(fields)
    other = fields.get("conninfo", "").strip()
    if verb == "promote":
        step = ["pg", "promote", *cluster]
    elif verb not in ("switchover", "rejoin"):
        raise TdeError(f"{verb!r} is nothing that is done with a pair")
    elif not _CONNINFO.fullmatch(other):
        raise TdeError(f"{other!r} names no server")
    else:
        option = "--to" if verb == "switchover" else "--primary"
        step = ["pg", verb, *cluster, option, other, *secret_option(passphrase)]
    return await begin(request, server, verb, [step], passphrase)


ROUTES = [
    Route("/servers/{server}/replication", show),
    Route("/servers/{server}/replication/primary", prepare, methods=["POST"]),
    Route("/servers/{server}/replication/standby", make_standby, methods=["POST"]),
    Route("/servers/{server}/replication/{verb}", change_roles, methods=["POST"]),
]
