"""The servers: those that are known, those that are found, a new one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tde.errors import TdeError
from tde.keystore import can_open_automatically
from tde.keystore.auto_opening import ways_to_open
from tde.manager.jobs.store import PASSPHRASE_OPTION, Job
from tde.manager.registry import Server
from tde.manager.web import (
    aes_in,
    begin,
    checked_form,
    look,
    manager_of,
    page,
    passphrase_in,
    path_in,
    read,
    require_repeated,
    server_of,
    session_of,
    to,
)
from tde.postgres.cluster.cluster import Cluster
from tde.postgres.server.control import read_major_version
from tde.postgres.server.pidfile import read_postmaster_file


@dataclass(frozen=True)
class Overview:
    """A server in the list, as far as its files tell without asking anybody.

    Attributes:
        state: ``running``, ``stopped`` or ``missing``.
        job: what works on it now.
        problem: why it could not be looked at.
    """

    server: Server
    state: str
    major: int | None = None
    port: int | None = None
    is_encrypted: bool = False
    scope: str = ""
    job: Job | None = None
    problem: str = ""


async def look_over(server: Server, job: Job | None) -> Overview:
    """Look at a server's files, as long as its disk answers."""
    found, problem = await look(lambda: _overview_of(server, job))
    return found or Overview(server, "missing", job=job, problem=problem)


def _overview_of(server: Server, job: Job | None) -> Overview:
    directory = server.data_directory
    try:
        major = read_major_version(directory)
        found = read_postmaster_file(directory)
        marker = Cluster(directory).marker
    except ValueError as error:  # As of names that are no text.
        return Overview(server, "missing", job=job, problem=str(error))
    return Overview(
        server,
        "stopped" if found is None else "running",
        major,
        None if found is None else found.port,
        marker is not None,
        "" if marker is None else marker.scope.value,
        job,
    )


async def servers(request: Request) -> Response:
    """Show all of them."""
    manager = manager_of(request)

    jobs = await run_in_threadpool(manager.jobs.running_by_server)
    unknown = await run_in_threadpool(manager.registry.unknown)
    known = manager.registry.all()
    found = await asyncio.gather(*(look_over(one, jobs.get(one.id)) for one in known))
    return page(request, "servers.html", found=found, unknown=unknown)


async def register(request: Request) -> Response:
    """Add a server that is there."""
    fields = await checked_form(request)
    directory = path_in(fields, "data_directory")
    await read(lambda: read_major_version(directory))
    marker = await read(lambda: Cluster(directory).marker)
    keystore = None if marker is None else marker.keystore
    made = manager_of(request).registry.add(
        fields.get("label", ""), directory, _optional(fields, "backup_directory"), keystore
    )
    return to(request, f"/servers/{made.id}")


def _optional(fields: Mapping[str, str], name: str) -> Path | None:
    return path_in(fields, name) if fields.get(name, "").strip() else None


def keystore_of(server: Server) -> Path:
    """Return the keystore of a server, if its cluster's files name the one that is registered.

    Raises:
        TdeError: they do not, or it is not encrypted.
    """
    marker = Cluster(server.data_directory).marker
    if marker is None:
        raise TdeError(f"{server.data_directory} is not encrypted")
    if server.keystore is None or marker.keystore != server.keystore.resolve():
        raise TdeError(
            f"the cluster names the keystore {marker.keystore}, and registered is "
            f"{server.keystore or 'none'}",
            remedy="If it was moved, change it on the page of the server. If not, find out who can "
            "write to the data directory.",
        )
    return server.keystore


async def needs_passphrase(server: Server) -> bool:
    """Whether a start needs one: the cluster is encrypted, and nothing opens its keystore."""

    def is_needed() -> bool:
        marker = Cluster(server.data_directory).marker
        if marker is None:
            return False
        return not (can_open_automatically(marker.keystore) or ways_to_open(marker.keystore))

    found, _ = await look(is_needed)
    return found is not False  # Where nobody can tell, it may be.


async def new(request: Request) -> Response:
    """Show the form for a server that is to be made."""
    session_of(request)
    return page(request, "new_server.html")


async def create(request: Request) -> Response:
    """Make a keystore and a cluster, and start it, as one job."""
    fields = await checked_form(request)
    manager = manager_of(request)
    passphrase = passphrase_in(fields)
    require_repeated(passphrase, fields)
    directory, keystore = path_in(fields, "data_directory"), path_in(fields, "keystore")
    steps = await read(lambda: _steps_to_create(fields, directory, keystore))
    is_made = await read((directory / "PG_VERSION").exists)
    for one in manager.registry.all():
        # What an earlier try has left, which made nothing.
        is_left = one.data_directory == directory and not is_made
        if is_left and manager.jobs.running(one.id) is None:
            manager.registry.remove(one.id)
    made = manager.registry.add(
        fields.get("label", ""), directory, _optional(fields, "backup_directory"), keystore
    )
    return await begin(request, made, "create", steps, passphrase)


def _steps_to_create(fields: Mapping[str, str], directory: Path, keystore: Path) -> list[list[str]]:
    port = checked_port(fields.get("port", "").strip() or "5432")
    encoding = fields.get("encoding", "UTF8")
    if not encoding.isascii() or not encoding.replace("_", "").isalnum():
        raise TdeError(f"{encoding!r} is no encoding")
    return [
        *steps_to_keystore(keystore),
        [
            *("pg", "init", "-D", str(directory), "-k", str(keystore), "--aes", aes_in(fields)),
            *(PASSPHRASE_OPTION, "--", f"--encoding={encoding}"),
        ],
        ["pg", "start", "-D", str(directory), "-o", f"-p {port}", PASSPHRASE_OPTION],
        step_to_keep_port(directory, port),
    ]


def steps_to_keystore(keystore: Path) -> list[list[str]]:
    """Return what makes a keystore, where there is none yet."""
    if keystore.exists():
        return []
    return [["keystore", "create", "-k", str(keystore), PASSPHRASE_OPTION]]


def checked_port(text: str) -> str:
    """Return a port.

    Raises:
        TdeError: it is none.
    """
    if not (text.isascii() and text.isdecimal() and 0 < int(text) < 65536):
        raise TdeError(f"{text!r} is no port")
    return text


def step_to_keep_port(directory: Path, port: str) -> list[str]:
    """Return what writes a port down, for starts without options: initdb of 15 cannot."""
    return ["psql", "-D", str(directory), "--", "-Xqc", f"ALTER SYSTEM SET port = {port}"]


async def change(request: Request) -> Response:
    """Give a server another name, or another place for backups."""
    fields = await checked_form(request)
    server = server_of(request)
    manager_of(request).registry.change(
        server.id,
        fields.get("label", ""),
        _optional(fields, "backup_directory"),
        _optional(fields, "keystore"),
    )
    return to(request, f"/servers/{server.id}")


async def remove(request: Request) -> Response:
    """Forget a server; nothing of it is touched."""
    await checked_form(request)
    manager, server = manager_of(request), server_of(request)
    if manager.jobs.running(server.id) is not None:
        raise TdeError("a job works on this server", remedy="Wait until it has ended.")
    manager.registry.remove(server.id)
    return to(request, "/")


ROUTES = [
    Route("/", servers),
    Route("/servers", register, methods=["POST"]),
    Route("/new", new),
    Route("/new", create, methods=["POST"]),
    Route("/servers/{server}/change", change, methods=["POST"]),
    Route("/servers/{server}/remove", remove, methods=["POST"]),
]
