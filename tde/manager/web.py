"""What all pages need of a request: the manager, checked forms, answers in the right language."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

from anyio import CapacityLimiter, to_thread
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from tde.errors import TdeError
from tde.keystore.crypto.secret import wipe
from tde.manager import language
from tde.manager.jobs.store import PASSPHRASE_OPTION, Jobs
from tde.manager.registry import Registry, Server
from tde.manager.security.limits import Limit
from tde.manager.security.sessions import Role, Session, Sessions

_Result = TypeVar("_Result")
_TEMPLATES = Path(__file__).with_name("templates")
_LONGEST_FIELD = 4096
_LONGEST_LOOK = 20.0  # Seconds.
_MOST_LOOKS = 64


def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.i18n"],
    )
    made.install_gettext_callables(  # type: ignore[attr-defined]
        language.gettext, language.ngettext, newstyle=True
    )
    made.filters.update(language.FILTERS)
    return made


@dataclass
class Manager:
    """What lives as long as the manager.

    Attributes:
        openings: limits how often the passphrase of a keystore is tried.
        logins: limits how often a token is tried.
    """

    directory: Path
    registry: Registry
    jobs: Jobs
    sessions: Sessions
    is_tls: bool
    role_by_password: Role
    openings: Limit = field(default_factory=lambda: Limit(5, 60))
    logins: Limit = field(default_factory=lambda: Limit(10, 60))
    templates: Environment = field(default_factory=_environment)


def manager_of(request: Request) -> Manager:
    """Return the manager."""
    found: Manager = request.app.state.manager
    return found


def session_of(request: Request) -> Session:
    """Return the session, which the guard has asked for."""
    found: Session | None = request.state.session
    if found is None:
        raise HTTPException(401)
    return found


def server_of(request: Request) -> Server:
    """Return the server that the address names."""
    found = manager_of(request).registry.find(request.path_params["server"])
    if found is None:
        raise HTTPException(404)
    return found


def page(request: Request, template: str, *, code: int = 200, **content: Any) -> Response:
    """Return a page."""
    chosen = language.choose(request)
    session: Session | None = request.state.session
    text = (
        manager_of(request)
        .templates.get_template(template)
        .render(
            request=request,
            path=request.url.path,
            session=session,
            base=request.state.base,
            csrf="" if session is None else session.csrf,
            may_change=session is not None and session.may_change,
            language=chosen,
            languages=language.LANGUAGES,
            **content,
        )
    )
    # A name of a file may be no text: it is shown as bytes, and is nobody's error.
    return HTMLResponse(text.encode("utf-8", "backslashreplace"), code)


def error_page(request: Request, error: TdeError | OSError, *, code: int = 400) -> Response:
    """Return a page with what went wrong, and what to do."""
    return page(
        request,
        "error.html",
        code=code,
        problem=str(error),
        remedy=getattr(error, "remedy", "") or "",
    )


async def checked_form(request: Request) -> Mapping[str, str]:
    """Return the fields of a form of this session.

    Raises:
        HTTPException: it is somebody else's, or has what no form has.
    """
    form = await request.form(max_files=0, max_fields=50)
    fields = {name: value for name, value in form.multi_items() if isinstance(value, str)}
    if not session_of(request).is_own(fields.pop("csrf", "")):
        raise HTTPException(403, "This form is not of this session.")
    if any(len(value) > _LONGEST_FIELD or "\0" in value for value in fields.values()):
        raise HTTPException(400)
    return fields


def path_in(fields: Mapping[str, str], name: str) -> Path:
    """Return the absolute path in a field.

    Raises:
        TdeError: it is none.
    """
    text = fields.get(name, "").strip()
    path = Path(text)
    if not text or not path.is_absolute() or ".." in path.parts or not text.isprintable():
        raise TdeError(
            f"{text!r} is no absolute path", remedy="Name it from the root on: /srv/pg/main."
        )
    return path


def passphrase_in(fields: Mapping[str, str], name: str = "passphrase") -> bytearray:
    """Return a passphrase; whoever gets it wipes it."""
    return bytearray(fields.get(name, "").encode())


async def read(function: Callable[[], _Result]) -> _Result:
    """Return what a function finds in files of a server, or asks it.

    Raises:
        TdeError: there is no answer for long.
        OSError: as the function does.
    """

    def asked() -> _Result | TdeError | OSError:
        try:
            return function()
        except (TdeError, OSError) as error:
            return error

    # In threads of their own: what hangs, as a disk of the network, must not stop other pages.
    try:
        found = await asyncio.wait_for(
            to_thread.run_sync(asked, abandon_on_cancel=True, limiter=_looking()), _LONGEST_LOOK
        )
    except asyncio.TimeoutError as error:
        raise TdeError(
            f"no answer within {_LONGEST_LOOK:.0f} seconds",
            remedy="The server, or its disk, may hang: look at its log.",
        ) from error
    if isinstance(found, (TdeError, OSError)):
        raise found
    return found


async def look(function: Callable[[], _Result]) -> tuple[_Result | None, str]:
    """Read something that a page shows; return it, or why there is none."""
    try:
        return await read(function), ""
    except (TdeError, OSError) as error:
        return None, str(error)


@cache
def _looking() -> CapacityLimiter:
    return CapacityLimiter(_MOST_LOOKS)


async def begin(
    request: Request,
    server: Server,
    what: str,
    steps: Sequence[Sequence[str]],
    passphrase: bytearray | None = None,
) -> Response:
    """Start a job and return its page; the passphrase is wiped here, whatever comes of it.

    Raises:
        JobRunsError: another job works on that server.
    """
    manager = manager_of(request)
    try:
        # Each try costs this machine half a second, and a guesser nothing else.
        if passphrase and (wait := manager.openings.wait(server.id)):
            return page(request, "wait.html", code=429, wait=wait, server=server)
        start = partial(manager.jobs.start, role=session_of(request).role.value)
        job = await run_in_threadpool(start, server, what, steps, passphrase)
    finally:
        if passphrase is not None:
            wipe(passphrase)
    return to(request, f"/jobs/{job}")


def require_repeated(passphrase: bytearray, fields: Mapping[str, str]) -> None:
    """Check that a new passphrase was typed twice.

    Raises:
        TdeError: it was not.
    """
    if passphrase != passphrase_in(fields, "again"):
        raise TdeError("the two passphrases are not the same")


def aes_in(fields: Mapping[str, str]) -> str:
    """Return the size of new keys that is chosen in a form, in bits."""
    return "128" if fields.get("aes") == "128" else "256"


def secret_option(passphrase: bytearray) -> list[str]:
    """Return what tells a command that its passphrase comes, where one was typed."""
    return [PASSPHRASE_OPTION] if passphrase else []


def to(request: Request, path: str) -> Response:
    """Return to a page after a form."""
    return RedirectResponse(f"{request.state.base}{path}", 303)
