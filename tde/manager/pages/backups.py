"""Sealed backups in a server's directory for backups: taking, verifying and trying them."""

from __future__ import annotations

import re
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tde.backup.seal import read_unproven, seal_path
from tde.errors import TdeError
from tde.manager.pages.servers import keystore_of, needs_passphrase
from tde.manager.registry import Server
from tde.manager.web import (
    begin,
    checked_form,
    look,
    page,
    passphrase_in,
    read,
    secret_option,
    server_of,
)

_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,99}", re.ASCII)
_SEAL = ".seal.json"
_SHOWN = {"began": str, "server_version": str, "form": str, "keys": list}


@dataclass(frozen=True)
class Backup:
    """A backup, as its seal says that it is; nobody has proven that yet."""

    name: str
    seal: dict[str, Any]


def _list(server: Server) -> list[Backup]:
    if server.backup_directory is None:
        return []
    found = []
    for path in sorted(server.backup_directory.glob(f"*{_SEAL}"), reverse=True):
        directory = path.with_name(path.name.removesuffix(_SEAL))
        if directory.is_dir() and _NAME.fullmatch(directory.name):
            with suppress(TdeError):  # tde pg verify-backup says what is wrong with it.
                seal = read_unproven(seal_path(directory))
                if all(isinstance(seal.get(name), kind) for name, kind in _SHOWN.items()):
                    found.append(Backup(directory.name, seal))
    return found


async def show(request: Request) -> Response:
    """Show the backups."""
    server = server_of(request)
    found, problem = await look(lambda: _list(server))
    return page(
        request,
        "backups.html",
        server=server,
        found=found or [],
        problem=problem,
        proposed=time.strftime("%Y-%m-%d-%H%M"),
        needs_passphrase=await needs_passphrase(server),
    )


async def act(request: Request) -> Response:
    """Take, verify or try a backup, as a job."""
    fields = await checked_form(request)
    server, verb = server_of(request), request.path_params["verb"]
    backup = _directory_of(server, fields.get("name", ""))
    passphrase = passphrase_in(fields)
    secret = secret_option(passphrase)
    keystore = ["-k", str(await read(lambda: keystore_of(server)))]
    steps = {
        "take": ["pg", "backup", str(backup), "-D", str(server.data_directory), *secret],
        "verify": ["pg", "verify-backup", str(backup), *keystore, *secret],
        "drill": [
            *("pg", "restore-drill", str(backup), "--scratch", str(backup.with_name("drill"))),
            *(*keystore, *secret),
        ],
    }
    if verb not in steps:
        raise TdeError(f"{verb!r} is nothing that is done with a backup")
    return await begin(request, server, f"backup-{verb}", [steps[verb]], passphrase)


def _directory_of(server: Server, name: str) -> Path:
    if server.backup_directory is None:
        raise TdeError("this server has no directory for backups yet: name it on its page")
    if not _NAME.fullmatch(name):
        raise TdeError(f"{name!r} is no name of a backup: letters, digits, dots and dashes")
    return server.backup_directory / name


ROUTES = [
    Route("/servers/{server}/backups", show),
    Route("/servers/{server}/backups/{verb}", act, methods=["POST"]),
]
