"""``tde keystore log``: who has opened, changed, copied or failed to open a keystore."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tde.cli.keystore_keys import print_columns
from tde.cli.options import (
    JsonOption,
    KeystoreOption,
    opens_keystore,
    require_keystore,
)
from tde.console.apps import examples
from tde.console.output import error_console, print_json
from tde.errors import KeystoreDamagedError
from tde.keystore.opening import open_keystore
from tde.keystore.providers.passphrase_source import PROMPT, PassphraseSource
from tde.printable import printable

if TYPE_CHECKING:
    from tde.keystore import KeyLog, LogEntry

_EXIT_FINDINGS = 1

VerifyOption = Annotated[
    bool, typer.Option("--verify", help="Open the keystore and prove each entry.")
]
LastOption = Annotated[
    int | None, typer.Option("--last", "-n", metavar="N", min=1, help="Show the last entries only.")
]
EPILOG = examples(
    "tde keystore log --keystore /etc/tde/main",
    "tde keystore log -k /etc/tde/main --verify",
    "# Who has tried a wrong passphrase?",
    "tde keystore log -k /etc/tde/main --json | jq '.entries[] | select(.event | test(\"fail\"))'",
)


@opens_keystore
def log(
    keystore: KeystoreOption = None,
    verify: VerifyOption = False,
    last: LastOption = None,
    as_json: JsonOption = False,
    source: PassphraseSource = PROMPT,
) -> None:
    """Show the key log: who has opened, changed, copied or failed to open the keystore.

    Each entry is bound to the one before, so a change in the middle shows. With --verify each must
    also have been written with the master key. Exit code 1: the log was altered.
    """
    from tde.keystore import keystore_uuid, read_key_log

    directory = require_keystore(keystore).resolve()
    # What has happened to a damaged keystore is worth reading; there must be one.
    with suppress(KeystoreDamagedError):
        keystore_uuid(directory)
    if verify:
        with open_keystore(directory, source) as opened:
            found = read_key_log(directory, opened.log_author())
    else:
        found = read_key_log(directory)
    shown = found.entries if last is None else found.entries[-last:]
    if as_json:
        print_json(_document(found, shown))
    else:
        _print_entries(shown)
        _print_verdict(found)
    for problem in found.problems:
        error_console.print(f"Altered: {problem}", style="red", markup=False, soft_wrap=True)
    if found.problems:
        error_console.print(
            "[bold]HINT:[/] Compare it with what syslog has kept, and with the log in backups of "
            "the keystore. The keys are not concerned.",
            soft_wrap=True,
        )
        raise typer.Exit(_EXIT_FINDINGS)


def _print_entries(entries: list[LogEntry]) -> None:
    from tde.keystore.lifecycle.fold import author_of

    print_columns(
        ("No.", "Time (UTC)", "Who", "Command", "What"),
        [
            (
                str(entry.number),
                f"{entry.time:%Y-%m-%d %H:%M:%S}",
                printable(author_of(entry)),
                printable(_command_of(entry)),
                printable(_what(entry)),
            )
            for entry in entries
        ],
    )


def _command_of(entry: LogEntry) -> str:
    via = entry.who.get("via")
    return f"{entry.who.get('command', '')}" + (f" ({via})" if via else "")


def _what(entry: LogEntry) -> str:
    shown = entry.details_in_words(("keystore", "sealed"))
    return f"{entry.event}: {shown}" if shown else entry.event


def _print_verdict(found: KeyLog) -> None:
    count = len(found.entries)
    counted = "1 entry" if count == 1 else f"{count} entries"
    if not found.entries:
        error_console.print(
            "There is no log yet: the next command that opens the keystore begins one."
        )
        return
    if not found.begins_with_the_keystore:
        error_console.print(
            "The log does not begin with the creation of the keystore: the keystore is older than "
            "the log, or the log was removed once.",
            soft_wrap=True,
        )
    if found.problems:
        return
    if found.confirmed is None:
        error_console.print(
            f"{counted}, each bound to the one before. Whether they are authentic: "
            "tde keystore log --verify",
            soft_wrap=True,
        )
    elif found.confirmed < count:
        error_console.print(
            f"{counted}, of which the first {found.confirmed} are proven; the others will be by "
            "the next one that is written with the keystore open.",
            soft_wrap=True,
        )
    else:
        error_console.print(f"{counted}, all authentic: {found.path}", markup=False, soft_wrap=True)


def _document(found: KeyLog, shown: list[LogEntry]) -> dict[str, Any]:
    return {
        "path": str(found.path),
        "good": not found.problems,
        "verified": found.confirmed is not None,
        "confirmed": found.confirmed,
        "begins_with_the_keystore": found.begins_with_the_keystore,
        "problems": found.problems,
        "entries": [
            {
                "number": entry.number,
                "time": entry.time.isoformat(),
                "event": entry.event,
                **entry.who,
                "details": dict(entry.details),
                "has_code": entry.master_key_id is not None,
            }
            for entry in shown
        ],
    }


def register(app: typer.Typer) -> None:
    """Add the command to those of ``tde keystore``."""
    app.command("log", epilog=EPILOG)(log)
