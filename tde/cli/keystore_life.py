"""``tde keystore history``, ``mark``, ``max-age`` and ``forget-cluster``: the life of keys."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tde.cli.key_life_view import (
    life_document,
    lives_of_keys,
    say_what_is_wrong_with_the_log,
    use_text,
    without_collector,
)
from tde.cli.keystore_keys import print_columns
from tde.cli.options import (
    ClustersOption,
    JsonOption,
    KeystoreOption,
    opens_keystore,
    require_keystore,
)
from tde.console.apps import examples
from tde.console.output import console, error_console, print_json
from tde.keystore.opening import open_keystore
from tde.keystore.providers.passphrase_source import PROMPT, PassphraseSource
from tde.printable import printable

if TYPE_CHECKING:
    from tde.keystore import Fact, KeyLife, KeystoreLife

HISTORY_EPILOG = examples(
    "tde keystore history --keystore /etc/tde/main",
    "# One key, with what the cluster does with it now:",
    "tde keystore history wal.2 -k /etc/tde/main -D /srv/pg/main",
    "tde keystore history -k /etc/tde/main --json | jq '.keys[] | {key, state, created}'",
)
MARK_EPILOG = examples(
    "tde keystore mark wal.2 suspended -k /etc/tde/main --reason 'laptop with a copy is missing'",
    "# The laptop was found:",
    "tde keystore mark wal.2 active -k /etc/tde/main --reason 'found, sealed'",
)
MAX_AGE_EPILOG = examples(
    "# Every key, the master key and the passphrase within a year:",
    "tde keystore max-age --all 365d -k /etc/tde/main",
    "tde keystore max-age --wal 90d -k /etc/tde/main",
    "tde keystore max-age 1663 none -k /etc/tde/main",
)
FORGET_EPILOG = examples("tde keystore forget-cluster /srv/pg/old -k /etc/tde/main")


@opens_keystore
def history(
    key: Annotated[
        str | None,
        typer.Argument(metavar="[KEY]", help="Id of a key, as in tde keystore list. Default: all."),
    ] = None,
    clusters: ClustersOption = None,
    keystore: KeystoreOption = None,
    as_json: JsonOption = False,
    source: PassphraseSource = PROMPT,
) -> None:
    """Show the life of keys, also of those that are destroyed: what happened, when, and by whom.

    The key log tells it, and every entry of the log is proven. What an earlier release did not
    write down is unknown; -D says what a cluster does with the keys now.
    """
    from tde.keystore.lifecycle.changes import find_key

    with open_keystore(require_keystore(keystore), source) as opened, without_collector():
        found, _ = lives_of_keys(opened, clusters or [])
    keys = found.keys if key is None else [find_key(found, key)]
    if as_json:
        document = life_document(found)
        names = {one.key_id for one in keys}
        document["keys"] = [one for one in document["keys"] if one["key"] in names]
        print_json(document)
    elif key is None:
        _print_all(found)
    else:
        _print_one(keys[0])
    say_what_is_wrong_with_the_log(found)


@opens_keystore
def mark(
    key: Annotated[str, typer.Argument(metavar="KEY", help="Id of a key.")],
    state: Annotated[
        str, typer.Argument(metavar="STATE", help="suspended, compromised, or active again.")
    ],
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; for the log.")],
    keystore: KeystoreOption = None,
    source: PassphraseSource = PROMPT,
) -> None:
    """Write down that a key is suspended, compromised, or active again after a suspicion.

    It is a statement, and stops no server: what the key protects gets another one by tde wal rotate
    or tde tablespace rekey. No command of tde begins to use a marked key. A compromised key stays
    compromised.
    """
    from tde.keystore.lifecycle.ages import rotation_of
    from tde.keystore.lifecycle.changes import MARKS, mark_key

    states = {one.value: one for one in MARKS}
    if state not in states:
        raise typer.BadParameter(f"the state must be one of {', '.join(states)}")
    with open_keystore(require_keystore(keystore), source) as opened:
        marked = mark_key(opened, key, states[state], reason)
    assert marked.state is not None  # A plaintext entry gets no mark.
    console.print(f"{marked.key_id} is {marked.state.value}", markup=False, soft_wrap=True)
    if state != "active" and marked.present:
        advice = f"Give what it protects another key: {rotation_of(marked.owner)}"
        if marked.deactivated:
            advice = "It is only read: nothing new is encrypted with it."
        error_console.print(advice, markup=False, soft_wrap=True)


@opens_keystore
def max_age(
    words: Annotated[
        list[str],
        typer.Argument(metavar="[KEY] DAYS|none", help="Such as 365d; none lifts the limit."),
    ],
    wal: Annotated[bool, typer.Option("--wal", help="All keys of WAL.")] = False,
    master: Annotated[bool, typer.Option("--master", help="The master key.")] = False,
    passphrase: Annotated[bool, typer.Option("--passphrase", help="The passphrase.")] = False,
    every: Annotated[
        bool,
        typer.Option("--all", help="All keys, the master key and the passphrase."),
    ] = False,
    keystore: KeystoreOption = None,
    source: PassphraseSource = PROMPT,
) -> None:
    """Set how old a key may become; tde keystore status, tde pg status and doctor then watch it.

    The age counts from the first use. They warn 30 days before, and name the command that rotates
    the key. Nothing is rotated by itself. A limit for all takes the place of all set before.
    """
    from tde.keystore import read_lives
    from tde.keystore.lifecycle.changes import find_key, set_age_limit
    from tde.keystore.lifecycle.events import OF_ALL, OF_MASTER, OF_PASSPHRASE, OF_WAL

    options = ((wal, OF_WAL), (master, OF_MASTER), (passphrase, OF_PASSPHRASE), (every, OF_ALL))
    given = [name for is_given, name in options if is_given]
    if len(given) + len(words) != 2 or not words:
        raise typer.BadParameter(
            "give one of KEY, --wal, --master, --passphrase and --all, and then the limit"
        )
    days = _days(words[-1])
    with open_keystore(require_keystore(keystore), source) as opened:
        if not given:
            found = find_key(read_lives(opened.path, opened), words[0])
            given = [found.owner.file_name]
        set_age_limit(opened, given[0], days)
    limit = "no age limit" if days is None else f"an age limit of {days} days"
    console.print(f"{_subject(given[0])}: {limit}", markup=False, soft_wrap=True)


@opens_keystore
def forget_cluster(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="Where the cluster or the backup was.")
    ],
    keystore: KeystoreOption = None,
    source: PassphraseSource = PROMPT,
) -> None:
    """Write down that a cluster or a backup is gone, so that tde keystore destroy need not see it.

    Only for what nobody will start or restore again: without its keys it cannot be read.
    """
    from tde.keystore.lifecycle.changes import forget_place

    with open_keystore(require_keystore(keystore), source) as opened:
        forget_place(opened, directory)
    console.print(f"Forgotten: {directory.absolute()}", markup=False, soft_wrap=True)


def _days(text: str) -> int | None:
    from tde.keystore.lifecycle.limits import LONGEST_LIMIT

    if text == "none":
        return None
    digits = text.removesuffix("d")
    if digits.isascii() and digits.isdecimal() and 1 <= int(digits[:9]) <= LONGEST_LIMIT:
        return int(digits)
    raise typer.BadParameter(f"a limit is none, or 1 to {LONGEST_LIMIT} days, such as 365d")


def _subject(name: str) -> str:
    named = {"all": "All keys, the master key and the passphrase", "wal": "Keys of WAL"}
    return named.get(name, name.removesuffix(".key"))


def _print_all(life: KeystoreLife) -> None:
    print_columns(
        ("Key", "State", "Created", "Activated", "Deactivated", "Destroyed"),
        [
            (
                one.key_id,
                one.state.value,
                *map(_day, (one.created, one.activated, one.deactivated, one.destroyed)),
            )
            for one in life.keys
            if one.state is not None
        ],
    )
    for secret in (life.master_key, life.passphrase):
        since = f"of {_day(secret.since)}, replaced {secret.changes} times"
        console.print(f"{secret.name}: {since}", markup=False, soft_wrap=True)


def _day(fact: Fact | None) -> str:
    if fact is None:
        return "-"
    return "unknown" if fact.time is None else f"{fact.time:%Y-%m-%d}"


def _print_one(key: KeyLife) -> None:
    state = "plaintext entry, no key" if key.state is None else key.state.value
    facts = [("Key", key.key_id), ("Of", str(key.owner)), ("State", state)]
    if key.state_source:
        facts.append(("Known from", key.state_source))
    if key.algorithm is not None:
        facts.append(("Algorithm", key.algorithm.label))
    for title, fact in (
        ("Created", key.created),
        ("Activated", key.activated),
        ("Deactivated", key.deactivated),
        ("Suspended", key.suspended),
        ("Compromised", key.compromised),
        ("Destroyed", key.destroyed),
    ):
        if fact is not None:
            when = "" if fact.time is None else f"{fact.time:%Y-%m-%d %H:%M:%S} UTC, "
            facts.append((title, f"{when}{fact.source}"))
    if key.max_age is not None:
        facts.append(("Age limit", f"{key.max_age} days"))
    facts += [("Used by", use_text(use)) for use in key.used_by]
    width = max(len(title) for title, _ in facts)
    for title, text in facts:
        typer.echo(f"{title.ljust(width)}  {printable(text)}")
    if key.events:
        typer.echo("")
        print_columns(
            ("Entry", "Time (UTC)", "What", "Who"),
            [
                (
                    str(event.entry),
                    f"{event.time:%Y-%m-%d %H:%M:%S}",
                    printable(": ".join(filter(None, (event.event, event.detail)))),
                    printable(event.who),
                )
                for event in key.events
            ],
        )


def register(app: typer.Typer) -> None:
    """Add the commands to those of ``tde keystore``."""
    app.command("history", epilog=HISTORY_EPILOG)(history)
    app.command("mark", epilog=MARK_EPILOG)(mark)
    app.command("max-age", epilog=MAX_AGE_EPILOG)(max_age)
    app.command("forget-cluster", epilog=FORGET_EPILOG)(forget_cluster)
