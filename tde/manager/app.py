"""The application: pages, and the guard in front of them."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from tde.errors import TdeError
from tde.manager.jobs.store import Jobs
from tde.manager.pages import (
    backups,
    checks,
    clients,
    convert,
    encryption,
    jobs,
    login,
    replication,
    servers,
    service,
    settings,
    tablespaces,
)
from tde.manager.registry import Registry
from tde.manager.security.guard import Guard
from tde.manager.security.sessions import Role, Sessions
from tde.manager.web import Manager, error_page, page

_STATIC = Path(__file__).with_name("static")


def create_app(
    directory: Path,
    sessions: Sessions,
    hosts: Collection[str],
    base: str,
    *,
    is_tls: bool = False,
    role: Role = Role.ADMINISTRATOR,
) -> Starlette:
    """Return the application.

    Args:
        directory: where the manager keeps servers and jobs.
        hosts: what the Host header may say.
        base: the path below which everything is.
        is_tls: whether browsers reach it by https.
        role: what a password lets somebody do.

    Raises:
        OSError: the directory cannot be made.
    """
    modules = [login, servers, service, encryption, tablespaces, settings, replication, backups]
    modules += [clients, convert, checks, jobs]
    app = Starlette(
        routes=[
            *(route for module in modules for route in module.ROUTES),
            Mount("/static", StaticFiles(directory=_STATIC)),
        ],
        middleware=[Middleware(Guard, sessions=sessions, hosts=hosts, base=base)],
        exception_handlers={
            TdeError: _tde_error,
            HTTPException: _http_error,
            Exception: _unexpected,
        },
    )
    app.state.manager = Manager(
        directory, Registry(directory), Jobs(directory), sessions, is_tls, role
    )
    return app


def _tde_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, TdeError)
    return error_page(request, error)


def _unexpected(request: Request, error: Exception) -> Response:
    """Say that something is wrong with this program, or with a file that it has read."""
    text = f"something unexpected: {type(error).__name__}: {error}"
    return page(request, "error.html", code=500, problem=text, remedy="")


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    texts = {404: "There is no such page.", 403: error.detail, 401: "Not logged in."}
    text = texts.get(error.status_code, error.detail)
    return page(request, "error.html", code=error.status_code, problem=text, remedy="")
