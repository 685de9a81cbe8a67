"""Encrypting a cluster that is there, and decrypting it again, in place."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tde.manager.pages.servers import needs_passphrase, steps_to_keystore
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
    secret_option,
    server_of,
)
from tde.postgres.cluster.cluster import Cluster


async def show(request: Request) -> Response:
    """Show what can be converted now, and what was interrupted."""
    server = server_of(request)
    status, problem = await look(lambda: Cluster(server.data_directory).status())
    return page(
        request,
        "convert.html",
        server=server,
        status=status,
        problem=problem,
        needs_passphrase=await needs_passphrase(server),
    )


async def encrypt(request: Request) -> Response:
    """Encrypt, as a job; one that was interrupted goes on."""
    fields = await checked_form(request)
    server = server_of(request)
    keystore, passphrase = path_in(fields, "keystore"), passphrase_in(fields)
    steps = await read(lambda: steps_to_keystore(keystore))
    if steps:
        require_repeated(passphrase, fields)
    manager_of(request).registry.change(server.id, server.label, server.backup_directory, keystore)
    place = ["-D", str(server.data_directory), "-k", str(keystore)]
    steps.append(["pg", "encrypt", *place, "--aes", aes_in(fields), *secret_option(passphrase)])
    return await begin(request, server, "encrypt", steps, passphrase)


async def decrypt(request: Request) -> Response:
    """Decrypt, as a job; one that was interrupted goes on."""
    fields = await checked_form(request)
    server, passphrase = server_of(request), passphrase_in(fields)
    step = ["pg", "decrypt", "-D", str(server.data_directory), *secret_option(passphrase)]
    return await begin(request, server, "decrypt", [step], passphrase)


ROUTES = [
    Route("/servers/{server}/convert", show),
    Route("/servers/{server}/convert/encrypt", encrypt, methods=["POST"]),
    Route("/servers/{server}/convert/decrypt", decrypt, methods=["POST"]),
]
