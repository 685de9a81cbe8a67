"""Checks of the archiving of WAL, before WAL piles up."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from tde.doctor.examined import AS_OWNER, Examined
from tde.errors import TdeError
from tde.machine.verdict import Outcome, ok, problem, unknown, warning
from tde.postgres.cluster.backrest_options import BackRestCall, call_of_server, is_off
from tde.postgres.cluster.questions import LET_CONNECT
from tde.postgres.server.file_user import files_as


def check_archiving(examined: Examined) -> Iterator[Outcome]:
    """Tell whether WAL is archived, and whether pgBackRest knows that it is ciphertext."""
    settings = examined.settings
    if settings.value("archive_mode") in ("", "off"):
        yield ok("archive_mode is off")
        return
    found = [*_of_backrest(examined), *_of_archiver(examined)]
    yield from found
    if not found:
        command = settings.value("archive_library") or settings.value("archive_command")
        yield ok("no try has failed last" if examined.pid else f"by {command or 'nothing'}")


def _of_backrest(examined: Examined) -> Iterator[Outcome]:
    call = call_of_server(examined.settings.value("archive_command"), examined.pid)
    if call is None or not examined.is_encrypted:
        return
    try:
        with files_as(examined.os_user):
            header = is_off(call, "archive-header-check", "archive-push")
            pages = is_off(call, "checksum-page", "backup")
    except OSError as error:
        yield unknown(
            f"{error.filename}, the configuration of pgBackRest, may not be read", AS_OWNER
        )
        return
    if not header:
        yield problem(
            "archive_command runs pgBackRest, which refuses WAL that is ciphertext, so WAL piles "
            f"up: archive-header-check=n is missing in {_files(call)}",
            _remedy(call),
        )
    if not pages:
        yield warning(
            "each backup of pgBackRest will warn of every page, because pages are ciphertext: "
            f"checksum-page=n is missing in {_files(call)}",
            f"{_remedy(call)} Then let tde pg audit --backup DIR verify what is stored.",
        )


def _remedy(call: BackRestCall) -> str:
    if not call.files:
        return "Add what tde pg install-bin --for pgbackrest prints to its options."
    return f"tde pg install-bin --for pgbackrest --write {shlex.quote(str(call.files[0]))}."


def _files(call: BackRestCall) -> str:
    return " and ".join(str(path) for path in call.files) or "its options"


def _of_archiver(examined: Examined) -> Iterator[Outcome]:
    archiver = examined.archiver
    if isinstance(archiver, TdeError):
        yield unknown(
            f"the server was not asked whether archiving fails: {archiver}",
            LET_CONNECT.format("the server's user"),
        )
    elif archiver is not None and archiver.failing:
        yield problem(
            f"the last try to archive WAL failed, at segment {archiver.segment}; "
            f"{archiver.waiting:,} segments wait, and stay in pg_wal until it succeeds",
            "The server's log says what archive_command has said. Do not remove segments from "
            "pg_wal by hand.",
        )
