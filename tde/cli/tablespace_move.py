"""``tde tablespace move``: empty a tablespace into another one while the server runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, TextColumn
from rich.table import Table
from rich.text import Text

from tde.cli.options import BindirOption, JsonOption, KeystoreOption, PgDataOption, UsernameOption
from tde.console.apps import examples
from tde.console.errors import EXIT_INTERRUPTED
from tde.console.output import console, print_json
from tde.console.progress import CommandProgress
from tde.console.signals import ended_as_by_ctrl_c
from tde.postgres.cluster.access import find_cluster
from tde.printable import printable

if TYPE_CHECKING:
    from tde.postgres import MovePlan, MoveProgress, MoveResult
    from tde.postgres.tablespace.move_result import Left, Rest

_MEGABYTE = 1_000_000
_NOT_DONE = 1  # Exit code.

FromOption = Annotated[
    str, typer.Option("--from", metavar="NAME", help="The tablespace that is to be emptied.")
]
ToOption = Annotated[
    str, typer.Option("--to", metavar="NAME", help="The tablespace that gets what it has.")
]
DatabasesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--database",
        "-d",
        metavar="NAME",
        help="Only this database. May be repeated. Default: all that allow connections.",
    ),
]
RateOption = Annotated[
    float | None,
    typer.Option(
        metavar="MB",
        min=0.001,
        help="Megabytes a second on average. One object is copied at full speed, and then there "
        "is a pause.",
    ),
]
SessionsOption = Annotated[
    int, typer.Option("--jobs", "-j", metavar="N", min=1, help="Sessions that move objects.")
]
LockTimeoutOption = Annotated[
    float,
    typer.Option(
        metavar="SECONDS",
        min=0.001,
        help="How long a lock is waited for, and sessions that need the same object with it.",
    ),
]
AttemptsOption = Annotated[
    int,
    typer.Option(
        metavar="N",
        min=1,
        help="How often a lock is tried, with pauses of 1, 2, 4 … 30 seconds between.",
    ),
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Only show what would be moved, and with which lock.")
]
PlaintextTargetOption = Annotated[
    bool,
    typer.Option("--to-plaintext", help="Move out of an encrypted tablespace into a plain one."),
]


def register(app: typer.Typer) -> None:
    """Add the command to the application of ``tde tablespace``."""
    app.command(
        epilog=examples(
            "tde tablespace move --from old --to secret -D /srv/pg/main --dry-run",
            "tde tablespace move --from old --to secret -D /srv/pg/main",
            "# Gently, one database:",
            "tde tablespace move --from old --to secret -D /srv/pg/main -d shop --rate 20",
        )
    )(move)


def move(
    source: FromOption,
    target: ToOption,
    pgdata: PgDataOption,
    database: DatabasesOption = None,
    rate: RateOption = None,
    jobs: SessionsOption = 1,
    lock_timeout: LockTimeoutOption = 2.0,
    attempts: AttemptsOption = 8,
    dry_run: DryRunOption = False,
    to_plaintext: PlaintextTargetOption = False,
    keystore: KeystoreOption = None,
    as_json: JsonOption = False,
    username: UsernameOption = None,
    bindir: BindirOption = None,
) -> None:
    """Move everything from one tablespace to another while the server runs.

    Indexes are built anew while their tables are read and written. A table cannot be read or
    written while it is copied. Small objects come first. Needs no passphrase.

    To pause, press Ctrl-Z and later type fg: what runs at the server ends, nothing new begins, and
    no lock is held. Ctrl-C ends it. The same command goes on with what is left, also where a lock
    could not be had. What no session can move is named at the end.

    Exit status: 0 when all was moved that can be moved, 1 when not.
    """
    from tde.postgres import MoveOptions, move_tablespace, plan_move

    options = MoveOptions(
        databases=tuple(database or ()),
        jobs=jobs,
        rate=None if rate is None else rate * _MEGABYTE,
        lock_timeout=lock_timeout,
        attempts=attempts,
        to_plaintext=to_plaintext,
    )
    cluster = find_cluster(pgdata, bindir, None)
    if dry_run:
        plan = plan_move(
            cluster, source, target, options, keystore_path=keystore, username=username
        )
        if as_json:
            print_json({"from": source, "to": target, **plan.as_json()})
        else:
            _print_plan(plan)
        return
    # A statement would run on at the server without us.
    with ended_as_by_ctrl_c(), _progress_bar() as progress:
        result = move_tablespace(
            cluster,
            source,
            target,
            options,
            keystore_path=keystore,
            username=username,
            progress=progress,
        )
    if as_json:
        print_json({"from": source, "to": target, **result.as_json()})
    else:
        _print_result(result, source, target)
    if result.interrupted:
        raise typer.Exit(EXIT_INTERRUPTED)
    if not result.complete:
        raise typer.Exit(_NOT_DONE)


@contextmanager
def _progress_bar() -> Iterator[Callable[[MoveProgress], None]]:
    """Show a bar on a terminal; what an index waits for is told everywhere."""
    columns = (
        BarColumn(20),
        DownloadColumn(),
        TextColumn("{task.description}", markup=False),
    )
    told: set[str] = set()
    with CommandProgress(*columns) as bar:
        task = bar.add_task("looking", total=None)

        def show(now: MoveProgress) -> None:
            names = ", ".join(printable(movable.name, 40) for movable in now.current)
            text = f"{now.done} of {now.objects} objects  {names}"
            bar.update(task, description=text, completed=now.bytes_done, total=now.bytes)
            for wait in now.waits:
                if wait not in told:
                    told.add(wait)
                    bar.console.print(Text(printable(wait)), soft_wrap=True)

        yield show


def _print_plan(plan: MovePlan) -> None:
    table = Table("Database", "Object", "Kind", "Size", "Lock")
    for movable in plan.movables:
        table.add_row(
            Text(printable(movable.database)),
            Text(printable(movable.name)),
            movable.kind.value,
            decimal(movable.bytes),
            movable.lock,
        )
    if plan.movables:
        console.print(table)
    total = sum(movable.bytes for movable in plan.movables)
    console.print(f"{len(plan.movables)} objects to move, {decimal(total)}")
    _print_rest(plan.rest)


def _print_result(result: MoveResult, source: str, target: str) -> None:
    console.print(
        f"Moved {len(result.moved)} objects ({decimal(result.bytes)}) from {printable(source)} to "
        f"{printable(target)} in {result.seconds:.1f} s",
        markup=False,
        soft_wrap=True,
    )
    if result.left:
        console.print(f"Not moved: {len(result.left)} objects; the same command goes on with them")
        for left in result.left:
            _print_line(_why(left))
    _print_rest(result.rest)
    if result.droppable:
        console.print(
            f"{printable(source)} is empty: {result.statement} is possible.",
            markup=False,
            soft_wrap=True,
        )
    note = "What was in plaintext may stay on the medium."
    if result.key_file is not None:
        note = f"Keep its key, keys/{result.key_file} of the keystore: backups need it."
    if result.moved or result.droppable:
        console.print(note, markup=False, soft_wrap=True)


def _why(left: Left) -> str:
    movable = left.movable
    reasons = {
        "locked": "locked by " + (", ".join(left.reason) or "a session that has ended meanwhile"),
        "failed": "; ".join(left.reason),
        "full": "; ".join(left.reason) + ". Nothing more was tried: make room first",
    }
    why = reasons.get(left.verdict.value, "its turn did not come")
    return f"database {movable.database}: {movable.kind.value} {movable.name}: {why}"


def _print_rest(rest: Rest) -> None:
    for name, why in rest.unread.items():
        _print_line(f"database {name} was not looked into: {why}")
    if rest.remaining:
        console.print("Remains, because no session can move it:")
        for one in rest.remaining:
            _print_line(f"database {one.database}: {one.what}. {one.remedy}")
    if rest.leftovers:
        console.print("Invalid indexes that an interrupted REINDEX CONCURRENTLY has left:")
        for leftover in rest.leftovers:
            _print_line(f"database {leftover.database}: {leftover.statement}")
    if rest.settings:
        console.print("Settings that put new objects into it:")
        for setting in rest.settings:
            _print_line(f"{setting.where}: {setting.statement}")


def _print_line(text: str) -> None:
    console.print(f"* {printable(text)}", markup=False, soft_wrap=True)
