"""Logging in with the token that was printed at the start, out, and the language."""

from __future__ import annotations

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tde.keystore.crypto.secret import wipe
from tde.manager import language
from tde.manager.security.password import has_password, is_password
from tde.manager.security.sessions import COOKIE
from tde.manager.web import checked_form, manager_of, page, to

_YEAR = 365 * 24 * 3600


async def login(request: Request) -> Response:
    """Exchange a token for a session; without one, say where it is, or ask for the password."""
    manager = manager_of(request)
    token = request.query_params.get("token", "")
    if not token:
        return _form(request, code=200 if request.state.session else 401)
    # Nobody guesses 256 bits, so tries are not counted: who did could keep everybody out.
    found = manager.sessions.exchange(token)
    return _form(request, code=403) if found is None else _let_in(request, found[0])


async def login_by_password(request: Request) -> Response:
    """Exchange the password for a session, where one was set."""
    manager = manager_of(request)
    if not has_password(manager.directory):
        return _form(request, code=403)
    # Each costs half a second and 64 MiB: a few at a time, whoever they are of.
    peer = request.client.host if request.client else ""
    if wait := manager.logins.wait(peer):
        return _form(request, code=429, wait=wait)
    form = await request.form(max_files=0, max_fields=5)
    given = bytearray(str(form.get("password", "")).encode())
    try:
        is_right = await run_in_threadpool(is_password, manager.directory, given)
    finally:
        wipe(given)
    if not is_right:
        return _form(request, code=403)
    return _let_in(request, manager.sessions.begin(manager.role_by_password)[0])


def _form(request: Request, *, code: int, wait: float = 0) -> Response:
    asks = has_password(manager_of(request).directory)
    return page(request, "login.html", code=code, wait=wait, asks_for_password=asks)


def _let_in(request: Request, cookie: str) -> Response:
    answer = to(request, "/")
    answer.set_cookie(
        COOKIE,
        cookie,
        path=request.state.base,
        httponly=True,
        samesite="strict",
        secure=manager_of(request).is_tls,
    )
    return answer


async def logout(request: Request) -> Response:
    """End the session."""
    await checked_form(request)
    manager_of(request).sessions.end(request.cookies.get(COOKIE, ""))
    answer = to(request, "/login")
    answer.delete_cookie(COOKIE, path=request.state.base)
    return answer


async def choose_language(request: Request) -> Response:
    """Remember a language, and go back."""
    fields = await checked_form(request)
    back = fields.get("back", "/")
    is_page = back.startswith("/") and not back.startswith(("//", "/\\"))
    answer = to(request, back if is_page else "/")
    if fields.get("language") in language.LANGUAGES:
        answer.set_cookie(
            language.COOKIE,
            fields["language"],
            max_age=_YEAR,
            path=request.state.base,
            samesite="strict",
        )
    return answer


ROUTES = [
    Route("/login", login),
    Route("/login", login_by_password, methods=["POST"]),
    Route("/logout", logout, methods=["POST"]),
    Route("/language", choose_language, methods=["POST"]),
]
