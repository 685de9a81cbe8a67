"""Settings of a running server: grouped as pg_settings, searched, and changed after a look."""

from __future__ import annotations

import re
from itertools import groupby
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tde.errors import TdeError
from tde.manager.registry import Server
from tde.manager.web import begin, checked_form, look, page, server_of
from tde.postgres.cluster.cluster import Cluster
from tde.postgres.cluster.questions import ask_server

# What the session that asks has of its own; of these the files count.
_OF_SESSION = (
    *("search_path", "statement_timeout", "lock_timeout", "default_transaction_read_only"),
    *("application_name", "client_encoding", "DateStyle"),
)
_QUESTION = """
SELECT coalesce(json_agg(s ORDER BY category, name), '[]') FROM (
    SELECT name, unit, category, short_desc, context, vartype, enumvals, boot_val, pending_restart,
        CASE WHEN name = ANY('{session}') THEN coalesce((SELECT f.setting FROM pg_file_settings f
            WHERE f.name = g.name AND f.applied ORDER BY f.seqno DESC LIMIT 1), boot_val)
        ELSE setting END AS setting
    FROM pg_settings g WHERE context NOT IN ('internal')) s
"""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,100}")
# Those that hold secrets are in arguments of no command, and on no page.
_SECRET = ("primary_conninfo", "ssl_passphrase_command")
# PostgreSQL quotes each of their parts by itself (GUC_LIST_QUOTE).
_LISTS = (
    *("search_path", "temp_tablespaces", "unix_socket_directories"),
    *(f"{kind}_preload_libraries" for kind in ("local", "session", "shared")),
)
_PART = re.compile(r'\s*(?:"(?P<quoted>(?:[^"]|"")+)"|(?P<plain>[^",]+))\s*(?:,\s*(?=\S)|$)')
_LONGEST = 1000


def _read(server: Server) -> list[dict[str, Any]]:
    question = _QUESTION.format(session="{" + ",".join(_OF_SESSION) + "}")
    found: list[dict[str, Any]] = ask_server(Cluster(server.data_directory), question)
    return [one for one in found if one["name"] not in _SECRET]


async def show(request: Request) -> Response:
    """Show the settings, or those in which a word is found."""
    server = server_of(request)
    found, problem = await look(lambda: _read(server))
    settings = found or []
    wanted = request.query_params.get("q", "")[:100].casefold()
    pending = [one["name"] for one in settings if one["pending_restart"]]
    shown = [one for one in settings if wanted in f"{one['name']} {one['short_desc']}".casefold()]
    return page(
        request,
        "settings.html",
        server=server,
        groups=[(name, list(group)) for name, group in groupby(shown, lambda one: one["category"])],
        wanted=wanted,
        pending=pending,
        problem=problem,
    )


async def preview(request: Request) -> Response:
    """Show what a change would be, before it is made."""
    server = server_of(request)
    name = request.query_params.get("name", "")
    found, problem = await look(lambda: _read(server))
    if found is None:
        return page(request, "error.html", code=400, problem=problem, remedy="")
    setting = next((one for one in found if one["name"] == name), None)
    if setting is None:
        raise TdeError(f"there is no setting {name!r}")
    new = request.query_params.get("value")
    return page(
        request,
        "setting.html",
        server=server,
        setting=setting,
        new=None if new is None else _usable(new),
        problem="",
    )


async def change(request: Request) -> Response:
    """Write a setting, and have the server read it, as a job."""
    fields = await checked_form(request)
    server, name = server_of(request), fields.get("name", "")
    if not _NAME.fullmatch(name) or name.lower() in _SECRET:
        raise TdeError(f"there is no setting {name!r}")
    if fields.get("reset") == "yes":
        statement = f"ALTER SYSTEM RESET {name}"
    else:
        value = _usable(fields.get("value", ""))
        parts = _names_in(value) if name.lower() in _LISTS else [value]
        literals = ", ".join(_literal(one) for one in parts)
        statement = f"ALTER SYSTEM SET {name} = {literals}"
        if not parts:  # An empty list would be a list of one empty name.
            statement = f"ALTER SYSTEM RESET {name}"
    step = ["psql", "-D", str(server.data_directory), "--", "-Xq", "-v", "ON_ERROR_STOP=1"]
    step += ["-c", statement, "-c", "SELECT pg_reload_conf()"]
    return await begin(request, server, "setting", [step])


def _names_in(value: str) -> list[str]:
    """Return the parts of a list, as PostgreSQL reads it: names, some in quotation marks."""
    parts, rest = [], value.strip()
    while rest:
        match = _PART.match(rest)
        if match is None:
            raise TdeError(f"{value!r} is no list of names, parted by commas")
        quoted, plain = match["quoted"], match["plain"]
        parts.append(plain.strip() if quoted is None else quoted.replace('""', '"'))
        rest = rest[match.end() :]
    return parts


def _literal(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "''")
    return f"E'{escaped}'"


def _usable(value: str) -> str:
    if len(value) > _LONGEST or not (value.isprintable() or value == ""):
        raise TdeError("a value has no line ends, and at most 1000 characters")
    return value


ROUTES = [
    Route("/servers/{server}/settings", show),
    Route("/servers/{server}/settings/change", preview),
    Route("/servers/{server}/settings/change", change, methods=["POST"]),
]
