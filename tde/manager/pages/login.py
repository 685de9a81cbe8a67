"""Logging in with the token that was printed at the start, out, and the language."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tde.manager import language
from tde.manager.security.sessions import COOKIE
from tde.manager.web import checked_form, manager_of, page, to

_YEAR = 365 * 24 * 3600


async def login(request: Request) -> Response:
    """Exchange a token for a session; without one, say where it is."""
    manager = manager_of(request)
    token = request.query_params.get("token", "")
    if not token:
        return page(request, "login.html", code=200 if request.state.session else 401, wait=0)
    if wait := manager.logins.wait("token"):
        return page(request, "login.html", code=429, wait=wait)
    found = manager.sessions.exchange(token)
    if found is None:
        return page(request, "login.html", code=403, wait=0)
    answer = to("/")
    answer.set_cookie(COOKIE, found[0], httponly=True, samesite="strict", secure=manager.is_tls)
    return answer


async def logout(request: Request) -> Response:
    """End the session."""
    await checked_form(request)
    manager_of(request).sessions.end(request.cookies.get(COOKIE, ""))
    answer = to("/login")
    answer.delete_cookie(COOKIE)
    return answer


async def choose_language(request: Request) -> Response:
    """Remember a language, and go back."""
    fields = await checked_form(request)
    back = fields.get("back", "/")
    answer = to(back if back.startswith("/") and not back.startswith(("//", "/\\")) else "/")
    if fields.get("language") in language.LANGUAGES:
        answer.set_cookie(language.COOKIE, fields["language"], max_age=_YEAR, samesite="strict")
    return answer


ROUTES = [
    Route("/login", login),
    Route("/logout", logout, methods=["POST"]),
    Route("/language", choose_language, methods=["POST"]),
]
