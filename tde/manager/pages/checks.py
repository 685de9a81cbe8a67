"""Doctor and audit."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tde.doctor import DoctorReport, doctor
from tde.manager.pages.service import needs_passphrase
from tde.manager.web import ask, begin, checked_form, page, passphrase_in, secret_option, server_of


async def show(request: Request) -> Response:
    """Show what the doctor finds; it is asked anew each time."""
    server = server_of(request)
    found = await ask(lambda: doctor(server.data_directory))
    is_report = isinstance(found, DoctorReport)
    return page(
        request,
        "checks.html",
        server=server,
        report=found if is_report else None,
        problem="" if is_report else str(found),
        needs_passphrase=await ask(lambda: needs_passphrase(server)),
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
