"""What every request has to be, before a page is asked: from a known address, from a page of this
manager if it changes something, of a session, small and not endless.
"""

from __future__ import annotations

import asyncio
import hmac
import re
from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tde.manager.security.sessions import COOKIE, Sessions

_LARGEST = 64 << 10  # Bytes of a form.
_SLOWEST = 20.0  # Seconds that a form may take to come.
_OPEN = re.compile(r"/login|/static/[\w.-]+")
_OWN_MATTERS = ("/logout", "/language")
_SAFE = ("GET", "HEAD")
# No page has a script or a style of its own in it, so what is planted in one does nothing.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # With "no-referrer" browsers say of our own forms, too, that they come from nowhere.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}


class Guard:
    """Stands in front of the pages.

    Args:
        hosts: what the Host header may say: another name that leads here is somebody's attempt to
            have a browser take his pages for ours (DNS rebinding).
        base: the path below which everything is.
    """

    def __init__(
        self, app: ASGIApp, *, sessions: Sessions, hosts: Collection[str], base: str
    ) -> None:
        self._app = app
        self._sessions = sessions
        self._hosts = hosts
        self._base = base

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        guarded = _with_headers(send)
        # Compared as a secret is: how far a guess is right must not show in time.
        asked = scope["path"][: len(self._base)].encode(errors="replace")
        if not hmac.compare_digest(asked, self._base.encode()):
            answer = PlainTextResponse("Open the address that tde manager has printed.", 404)
            await answer(scope, receive, guarded)
            return
        scope = {**scope, "path": scope["path"][len(self._base) :] or "/", "raw_path": None}
        scope["state"] = {**scope.get("state", {}), "base": self._base}
        refused = self._refusal(scope)
        if refused is not None:
            await refused(scope, receive, guarded)
            return
        await self._app(scope, _bounded(receive), guarded)

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if host not in self._hosts:
            return PlainTextResponse("This manager has another address.", 421)
        if scope["method"] not in (*_SAFE, "POST"):
            return PlainTextResponse("Only GET and POST.", 405)
        if scope["method"] == "POST":
            # Browsers say where a form comes from; one that does not say is none.
            is_own = headers.get("origin", "") in (f"http://{host}", f"https://{host}")
            if not is_own or headers.get("sec-fetch-site") not in (None, "same-origin"):
                return PlainTextResponse("This form is not of this manager.", 403)
            if not 0 <= _length(headers) <= _LARGEST or "transfer-encoding" in headers:
                return PlainTextResponse("This form is too long.", 413)
        cookie = Request(scope).cookies.get(COOKIE, "")
        by_itself = scope["path"].endswith(("/log", "/events"))
        session = self._sessions.find(cookie, is_used=not by_itself) if cookie else None
        scope["state"]["session"] = session
        if session is None and _OPEN.fullmatch(scope["path"]) is None:
            if scope["method"] == "POST" or scope["path"].endswith("/events"):
                return PlainTextResponse("Not logged in.", 401)
            return RedirectResponse(f"{self._base}/login", 303)
        changes = scope["method"] == "POST" and scope["path"] not in _OWN_MATTERS
        if session is not None and changes and not session.may_change:
            return PlainTextResponse("This session may only look.", 403)
        return None


def _length(headers: Headers) -> int:
    """Return how long a form says that it is; -1 for one that does not, or says nonsense."""
    text = headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else -1


def _bounded(receive: Receive) -> Receive:
    """Give a request an end: one that comes byte by byte would hold a connection for ever."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _SLOWEST
    ended = False

    async def received() -> Message:
        nonlocal ended
        if ended:  # Now only the end of the connection comes.
            return await receive()
        left = deadline - loop.time()
        try:
            message = await asyncio.wait_for(receive(), max(left, 0.01))
        except asyncio.TimeoutError:
            ended = True
            return {"type": "http.disconnect"}
        ended = not message.get("more_body", False)
        return message

    return received


def _with_headers(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return sent
