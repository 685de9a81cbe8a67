"""Doctor and audit."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tde.doctor import doctor
from tde.manager.pages.servers import needs_passphrase
from tde.manager.web import (
    begin,
    checked_form,
    look,
    page,
    passphrase_in,
    secret_option,
    server_of,
)


async def show(request: Request) -> Response:
    """Show what the doctor finds; it is asked anew each time."""
    server = server_of(request)
    report, problem = await look(lambda: doctor(server.data_directory))
    return page(
        request,
        "checks.html",
        server=server,
        report=report,
        problem=problem,
        needs_passphrase=await needs_passphrase(server),
    )


async def audit(request: Request) -> Response:
    """Prove that the cluster is ciphertext, as a job."""
    fields = await checked_form(request)
    server = server_of(request)
    passphrase = passphrase_in(fields)
    step = ["pg", "audit", "-D", str(server.data_directory), *secret_option(passphrase)]
    return await begin(request, server, "audit", [step], passphrase)


ROUTES = [
    Route("/servers/{server}/checks", show),
    Route("/servers/{server}/checks/audit", audit, methods=["POST"]),
]
