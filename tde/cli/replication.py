"""``tde replication``: what servers that follow each other know."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer
from rich.table import Table
from rich.text import Text

from tde.cli.options import BindirOption, JsonOption, PgDataOption, UsernameOption
from tde.console.apps import examples, new_app
from tde.console.output import console, print_json
from tde.postgres.cluster.access import find_cluster

if TYPE_CHECKING:
    from tde.replication.status import ReplicationStatus

app = new_app(
    "Standbys and the servers that they follow.",
    epilog=examples("tde replication status -D /srv/pg/main"),
)

_UNITS = ("B", "kB", "MB", "GB", "TB")


@app.callback()
def replication() -> None:
    """Hold the commands below the noun."""


@app.command(
    epilog=examples(
        "tde replication status -D /srv/pg/main",
        "tde replication status -D /srv/pg/main --json | jq '.standbys[].replayed_lag_bytes'",
    )
)
def status(
    pgdata: PgDataOption,
    as_json: JsonOption = False,
    username: UsernameOption = None,
    bindir: BindirOption = None,
) -> None:
    """Show who follows a server, whom it follows, and how far behind each is.

    Only standbys and receivers of WAL that encrypt are served, so whoever is listed here does.

    A standby says which keys it has when it connects, and it is noted with the first WAL that it
    gets; those of older releases do not.

    Exit code 0: all is well; 1: a standby receives or replays nothing or keeps WAL for a slot that
    nobody uses, a slot has lost WAL, or a standby lacks a key; 3: the server does not run.
    """
    from tde.replication.status import replication_status

    cluster = find_cluster(pgdata, bindir, None)
    found = replication_status(cluster, username=username)
    if as_json:
        print_json(found.as_json())
    else:
        _print(found)
    if not found.is_well:
        raise typer.Exit(1)


def _print(found: ReplicationStatus) -> None:
    if found.is_standby:
        _say(
            f"A standby. {_upstream(found)}", f"It has WAL until {found.position}. {_replay(found)}"
        )
    else:
        _say(f"A primary, at {found.position}.")
    if found.standbys:
        table = Table(
            "Follower", "Address", "State", "Sync", "To receive", "To replay", "Seen after"
        )
        for one in found.standbys:
            table.add_row(
                Text(one.name),
                one.address or "this machine",
                Text(one.state or "?", "" if one.state == "streaming" else "bold yellow"),
                one.sync_state or "?",
                _bytes(one.received_lag_bytes),
                _bytes(one.replayed_lag_bytes),
                _seconds(one.replayed_lag_seconds),
            )
        console.print(table)
        _say_who_lacks_keys(found)
    else:
        _say("Nobody follows it.")
    if found.slots:
        table = Table("Slot", "In use", "Keeps WAL of", "State")
        for slot in found.slots:
            style = "bold red" if slot.wal_status == "lost" else ""
            state = Text(slot.wal_status or "", style)
            used = Text("yes") if slot.active else Text("no", "bold yellow")
            table.add_row(Text(slot.name), used, _bytes(slot.kept_bytes), state)
        console.print(table)


def _say_who_lacks_keys(found: ReplicationStatus) -> None:
    """Name who lacks keys; a base backup that is being sent needs none."""
    standbys = [one for one in found.standbys if one.state not in ("backup", "startup")]
    if not found.is_encrypted or not standbys:
        return
    for one in standbys:
        if one.lacks_keys is None:
            _say(f"{one.name or 'A standby'} has not said which keys it has.")
        elif one.lacks_keys:
            _say(
                f"{one.name or 'A standby'} lacks {', '.join(one.lacks_keys)}, and stops where it "
                "needs one: tde keystore sync brings them. It says what it has when it connects."
            )
    if all(one.lacks_keys == () for one in standbys):
        _say("They have all keys that this server uses.")


def _upstream(found: ReplicationStatus) -> str:
    receiver = found.receiver
    if receiver is None:
        return "It receives nothing now: its log says why."
    slot = f", with the slot {receiver.slot}" if receiver.slot else ""
    state = receiver.state or "its state is not visible to this role"
    return f"It follows {receiver.host}:{receiver.port}{slot}: {state}."


def _replay(found: ReplicationStatus) -> str:
    behind = f"To replay: {_bytes(found.replayed_lag_bytes)}"
    if found.replay_paused:
        return f"{behind}; replay is PAUSED (SELECT pg_wal_replay_resume())."
    if found.last_replayed_seconds is None:
        return f"{behind}; no transaction was replayed yet."
    return f"{behind}; the last transaction is of {_seconds(found.last_replayed_seconds)} ago."


def _bytes(number: int | None) -> str:
    if number is None:
        return "unknown"
    size = float(number)
    for unit in _UNITS:
        if size < 1000 or unit == _UNITS[-1]:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError


def _seconds(number: float | None) -> str:
    if number is None:
        return ""
    return f"{number * 1000:.1f} ms" if number < 1 else f"{number:.1f} s"


def _say(*lines: str) -> None:
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
