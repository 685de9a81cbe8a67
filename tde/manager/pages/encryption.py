"""The keystore of a server: its keys, what opens it, opening and closing it for sessions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tde.errors import TdeError
from tde.keystore import (
    AgeFinding,
    KeyLife,
    KeystoreStatus,
    LogEntry,
    age_findings,
    inspect_keystore,
    read_key_log,
    read_lives,
)
from tde.keystore.auto_opening import FORMS, Way, ways_to_open
from tde.manager.pages.servers import keystore_of
from tde.manager.registry import Server
from tde.manager.web import (
    begin,
    checked_form,
    look,
    page,
    passphrase_in,
    path_in,
    read,
    secret_option,
    server_of,
)
from tde.postgres.cluster.cluster import Cluster

_LOG_ENTRIES = 50
_FORMS = tuple(form.partition(":")[0].partition("[")[0] for form in FORMS)


@dataclass(frozen=True)
class Inventory:
    """A keystore, as it is without its passphrase.

    Attributes:
        lives: of its keys, with states and ages; empty where the log cannot be read.
        log: the newest entries of the key log, the last one first.
    """

    status: KeystoreStatus
    ways: list[Way]
    lives: list[KeyLife]
    ages: list[AgeFinding]
    log: list[LogEntry]
    problem: str


def _take_stock(keystore: Path) -> Inventory:
    status = inspect_keystore(keystore)
    records = {key.owner: key.algorithm for key in status.keys}
    lives, ages, log, problem = [], [], [], ""
    try:
        found = read_lives(keystore, records=records)
        lives, ages = found.keys, age_findings(found)
        log = read_key_log(keystore).entries[: -_LOG_ENTRIES - 1 : -1]
    except TdeError as error:
        problem = str(error)
    return Inventory(status, ways_to_open(keystore), lives, ages, log, problem)


async def show(request: Request) -> Response:
    """Show the keystore."""
    server = server_of(request)
    marker, problem = await look(lambda: Cluster(server.data_directory).marker)
    found = None
    if marker is not None:
        keystore = marker.keystore
        found, problem = await look(lambda: _take_stock(keystore))
    status, _ = await look(lambda: Cluster(server.data_directory).status())
    return page(
        request,
        "encryption.html",
        server=server,
        marker=marker,
        found=found,
        status=status,
        problem=problem,
        forms=_FORMS,
    )


async def act(request: Request) -> Response:
    """Do something with the keystore, as a job."""
    fields = await checked_form(request)
    server, verb = server_of(request), request.path_params["verb"]
    passphrase = passphrase_in(fields)
    step = await read(lambda: _step(server, verb, fields, secret_option(passphrase)))
    return await begin(request, server, f"keystore-{verb}", [step], passphrase)


def _step(server: Server, verb: str, fields: Mapping[str, str], secret: list[str]) -> list[str]:
    keystore = ["-k", str(keystore_of(server))]
    cluster = ["-D", str(server.data_directory)]
    if verb == "auto-open":
        bind = fields.get("bind", "").strip()
        chosen = ["--bind", bind] if bind else []
        return ["keystore", "auto-open", "enable", *keystore, *chosen, *secret]
    if verb == "backup":
        return ["keystore", "backup", str(path_in(fields, "directory")), *keystore]
    found = {
        "open": ["keystore", "open", *cluster, *secret],
        "close": ["keystore", "close", *cluster],
        "auto-open-off": ["keystore", "auto-open", "disable", *keystore],
        "verify": ["keystore", "verify", *keystore, *secret],
        "rotate": ["keystore", "rotate", *keystore, *secret],
        "rotate-wal": ["wal", "rotate", *cluster, *secret],
    }.get(verb)
    if found is None:
        raise TdeError(f"{verb!r} is nothing that is done with a keystore")
    return found


ROUTES = [
    Route("/servers/{server}/encryption", show),
    Route("/servers/{server}/encryption/{verb}", act, methods=["POST"]),
]
