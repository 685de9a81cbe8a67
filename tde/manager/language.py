"""The languages of the pages: English, which stands in the templates, and others from catalogues.

Catalogues are read as their translators write them (gettext's .po), so there is no step that turns
them into something else.
"""

from __future__ import annotations

from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any

from babel import Locale
from babel.dates import format_datetime
from babel.messages.pofile import read_po
from babel.numbers import format_decimal, format_percent
from starlette.requests import Request

LANGUAGES = {"en": "English", "ja": "日本語"}
COOKIE = "tde_language"

_current: ContextVar[str] = ContextVar("language", default="en")
_DIRECTORY = Path(__file__).with_name("locale")
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def choose(request: Request) -> str:
    """Use the language that somebody has chosen, or that his browser asks for first."""
    asked = [request.cookies.get(COOKIE, "")]
    for part in request.headers.get("accept-language", "")[:200].split(","):
        asked.append(part.partition(";")[0].strip().partition("-")[0])
    found = next((one for one in asked if one in LANGUAGES), "en")
    _current.set(found)
    return found


@cache
def _catalogue(language: str) -> dict[str, tuple[str, ...]]:
    path = _DIRECTORY / language / "manager.po"
    if not path.exists():
        return {}
    with path.open("rb") as file:
        read = read_po(file, locale=language)
    found = {}
    for message in read:
        if message.id and message.string:
            name = message.id if isinstance(message.id, str) else message.id[0]
            text = message.string
            found[name] = (text,) if isinstance(text, str) else tuple(text)
    return found


def gettext(text: str) -> str:
    """Return a text in the current language."""
    return _catalogue(_current.get()).get(text, (text,))[0]


def ngettext(one: str, many: str, count: int) -> str:
    """Return a text about a number of things."""
    forms = _catalogue(_current.get()).get(one, (one, many))
    return forms[0] if count == 1 else forms[-1]


def _locale() -> Locale:
    return Locale.parse(_current.get())


def size(count: float | None) -> str:
    """Return a number of bytes as people read it."""
    if count is None:
        return "–"
    number = float(count)
    for unit in _UNITS:
        if abs(number) < 1000 or unit == _UNITS[-1]:
            digits = "#,##0" if unit == "B" or number >= 100 else "#,##0.#"
            return f"{format_decimal(number, digits, locale=_locale())} {unit}"
        number /= 1000
    raise AssertionError


def number(count: float | None) -> str:
    """Return a number with the separators of the language."""
    return "–" if count is None else str(format_decimal(count, locale=_locale()))


def percent(fraction: float) -> str:
    """Return a fraction of 1 in per cent."""
    return str(format_percent(fraction, "#,##0%", locale=_locale()))


def moment(when: Any) -> str:
    """Return a time, of a datetime or of seconds since 1970, in this machine's time zone."""
    from datetime import datetime

    if when is None:
        return "–"
    at = when if isinstance(when, datetime) else datetime.fromtimestamp(float(when))
    return str(format_datetime(at.astimezone(), "medium", locale=_locale()))


def duration(seconds: float | None) -> str:
    """Return a number of seconds as people say it."""
    if seconds is None:
        return "–"
    whole = round(seconds)
    if whole < 60:
        return gettext("{count} s").format(count=whole)
    if whole < 3600:
        return gettext("{minutes} min {seconds} s").format(minutes=whole // 60, seconds=whole % 60)
    return gettext("{hours} h {minutes} min").format(
        hours=whole // 3600, minutes=whole % 3600 // 60
    )


# What jobs do, by the names that they are written down with.
JOBS = {
    "create": "Create a server",
    "start": "Start the server",
    "start-closed": "Start the server, closed for sessions",
    "stop": "Stop the server",
    "restart": "Restart the server",
    "reload": "Reload the configuration",
    "keystore-open": "Open the keystore for sessions",
    "keystore-close": "Close the keystore for sessions",
    "keystore-auto-open": "Let the keystore open by itself",
    "keystore-auto-open-off": "Let nothing but the passphrase open the keystore",
    "keystore-verify": "Verify the keystore",
    "keystore-rotate": "Replace the master key",
    "keystore-rotate-wal": "Write WAL with another key",
    "keystore-backup": "Back up the keystore",
    "tablespace-create": "Create an encrypted tablespace",
    "tablespace-lock": "Lock a tablespace",
    "tablespace-unlock": "Unlock a tablespace",
    "tablespace-move": "Move a tablespace",
    "tablespace-rekey": "Rekey",
    "audit": "Audit",
    "primary": "Prepare the primary's side",
    "standby": "Make a standby",
    "promote": "Make it the primary",
    "switchover": "Change roles",
    "rejoin": "Bring it back as a standby",
    "encrypt": "Encrypt in place",
    "decrypt": "Decrypt in place",
    "setting": "Change a setting",
    "backup-take": "Take a backup",
    "backup-verify": "Verify a backup",
    "backup-drill": "Try a restore",
}


def job_name(what: str) -> str:
    """Return what a job does, for people."""
    return gettext(JOBS.get(what, what))


FILTERS = {
    "job_name": job_name,
    "size": size,
    "number": number,
    "percent": percent,
    "moment": moment,
    "duration": duration,
}
