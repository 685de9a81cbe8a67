"""``tde keystore auto-open``: a keystore that opens by itself, and what that is bound to."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tde.cli.options import (
    JsonOption,
    KeystoreOption,
    opens_keystore,
    require_keystore,
)
from tde.console.apps import examples, new_app
from tde.console.output import console, error_console, print_json
from tde.errors import KeystoreError
from tde.keystore.opening import open_keystore
from tde.keystore.providers.passphrase_source import PROMPT, PassphraseSource

if TYPE_CHECKING:
    from tde.keystore import EnvelopeInfo
    from tde.keystore.auto_opening import Way

_EXIT_FINDINGS = 1
_LEVELS = ("full", "wal")

app = new_app(
    "Let a keystore open without its passphrase, for unattended starts.",
    epilog=examples(
        "tde keystore auto-open enable --bind host-secret:/etc/tde/host.key -k /srv/tde/main",
        "tde keystore auto-open status -k /srv/tde/main",
    ),
)

BindOption = Annotated[
    str | None,
    typer.Option(
        "--bind",
        metavar="WHAT",
        help="host-secret:FILE, command:COMMAND, credential:NAME or tpm2[:pcrs=LIST]. "
        "Default: a file in the keystore opens it.",
    ),
]
LevelOption = Annotated[
    str | None,
    typer.Option(
        "--level",
        metavar="full|wal",
        help="wal starts servers with the keystore closed for sessions; needs --bind. "
        "Default: full.",
    ),
]


@app.command(
    epilog=examples(
        "# Bound to a file that is on another disk than the keystore, made if it is not there:",
        "tde keystore auto-open enable --bind host-secret:/etc/tde/host.key -k /srv/tde/main",
        "# Bound to the TPM, while the machine starts in the same way (Secure Boot):",
        "tde keystore auto-open enable --bind tpm2:pcrs=sha256:7 -k /srv/tde/main",
        "# Only recovery and replication until somebody opens the keystore:",
        "tde keystore auto-open enable --level wal --bind credential:tde -k /srv/tde/main",
        "# Bound to nothing:",
        "tde keystore auto-open enable -k /srv/tde/main",
    ),
)
@opens_keystore
def enable(
    keystore: KeystoreOption = None,
    bind: BindOption = None,
    level: LevelOption = None,
    source: PassphraseSource = PROMPT,
) -> None:
    """Let the keystore open by itself: the passphrase is not asked for at a start any more.

    Without --bind a file in the keystore does it: whoever can read that directory, or a backup of
    it with this file, can read the data. With --bind something is needed that is not in there.
    """
    if level not in (None, *_LEVELS):
        raise typer.BadParameter("--level is full or wal")
    if bind is None:
        if level == "wal":
            raise typer.BadParameter("--level wal needs --bind")
        _enable_file(keystore, source)
        return
    from tde.keystore.auto_opening import bind_auto_open, parse_binding
    from tde.keystore.providers.wrapper import make_provider

    type_, parameters = parse_binding(bind)
    # What cannot be right is told before anybody types a passphrase.
    make_provider(type_, parameters)
    with open_keystore(require_keystore(keystore), source) as opened:
        way = bind_auto_open(opened, type_, parameters, level or "full")
    console.print(
        f"The keystore opens by itself now, at level {way.level}, bound to {way.binding}. It was "
        "tried.",
        markup=False,
        soft_wrap=True,
    )
    _print_thieves(way)
    error_console.print(
        "The passphrase goes on opening it: keep it, for the day on which that is gone.",
        soft_wrap=True,
    )


@app.command(
    epilog=examples(
        "tde keystore auto-open status --keystore /srv/tde/main",
        "tde keystore auto-open status -k /srv/tde/main --json | jq '.ways[].opens'",
    )
)
def status(keystore: KeystoreOption = None, as_json: JsonOption = False) -> None:
    """Show whether the keystore opens by itself right now, and what thieves get from that.

    Needs no passphrase. Exit code 1: it is to open by itself, and one of its ways does not work; or
    an envelope cannot be read.
    """
    from tde.keystore.auto_opening import unread_envelopes, ways_to_open

    directory = require_keystore(keystore)
    ways = ways_to_open(directory, trying=True)
    unread = unread_envelopes(directory)
    if as_json:
        print_json(
            {
                "path": str(directory.resolve()),
                "ways": [_document(way) for way in ways],
                "unread": [str(info.file) for info in unread],
            }
        )
    elif not ways:
        console.print("Off: the keystore opens only with its passphrase, or by a named provider.")
    else:
        for way in ways:
            _print_way(way)
    _tell_of_unread(directory, unread)
    if unread or any(way.problem for way in ways):
        raise typer.Exit(_EXIT_FINDINGS)


@app.command(
    epilog=examples("tde keystore auto-open disable --keystore /etc/tde/main"),
)
def disable(keystore: KeystoreOption = None) -> None:
    """Remove every way in which the keystore opens by itself. Running servers go on.

    Also those of tde keystore provider add --unattended. Secrets elsewhere are not touched. Exit
    code 1: an envelope cannot be read, and may open the keystore once somebody has repaired it.
    """
    from tde.keystore.auto_opening import disable_all, unread_envelopes

    directory = require_keystore(keystore)
    removed = disable_all(directory)
    unread = unread_envelopes(directory)
    if removed:
        error_console.print(f"Removed: {', '.join(removed)}", markup=False, soft_wrap=True)
    _tell_of_unread(directory, unread)
    if unread:
        raise typer.Exit(_EXIT_FINDINGS)
    console.print(
        "The passphrase is needed again." if removed else "The keystore did not open by itself."
    )


def _tell_of_unread(directory: Path, unread: Sequence[EnvelopeInfo]) -> None:
    from tde.keystore.store.envelope import remove_envelope_command

    for info in unread:
        error_console.print(
            f"problem: {info.file} cannot be read, so whether the keystore would open by it cannot "
            f"be told: {info.problem}",
            markup=False,
            soft_wrap=True,
        )
        command = remove_envelope_command(directory, info.name)
        error_console.print(f"  HINT: Repair it, or: {command}", markup=False, soft_wrap=True)


def _enable_file(keystore: Any, source: PassphraseSource) -> None:
    with open_keystore(require_keystore(keystore), source) as opened:
        path = opened.enable_auto_open()
    console.print(f"The keystore opens by itself now: {path}", markup=False, soft_wrap=True)
    error_console.print(
        "[bold yellow]Keep that file out of backups[/]: with it, the keystore needs no passphrase. "
        "Bind it to something that is not in the keystore: --bind",
        soft_wrap=True,
    )


def _print_way(way: Way) -> None:
    state = f"does NOT open it now: {way.problem}" if way.problem else "opens it right now"
    for name, value in (("Bound to", way.binding), ("Level", _level(way)), ("State", state)):
        console.print(f"{name}: {value}", markup=False, soft_wrap=True)
    if way.remedy:
        console.print(f"  HINT: {way.remedy}", markup=False, soft_wrap=True)
    _print_thieves(way)


def _print_thieves(way: Way) -> None:
    for who, gets in _gets(way).items():
        console.print(f"A thief of {who} {gets}.", markup=False, soft_wrap=True)


def _gets(way: Way) -> dict[str, str]:
    disk = way.thieves.disk
    if way.shares_disk:
        disk = "gets the keys: the host secret is on the same file system as the keystore now"
    return {
        "the disk": disk,
        "a backup": way.thieves.backup,
        "the running machine": way.thieves.machine,
    }


def _level(way: Way) -> str:
    if way.level == "full":
        return "full"
    return "wal: sessions use no encrypted tablespace until tde keystore open -D DIR"


def _document(way: Way) -> dict[str, Any]:
    return {
        "name": way.name or None,
        "type": way.type,
        "level": way.level,
        "binding": way.binding,
        "opens": not way.problem,
        "problem": way.problem or None,
        "remedy": way.remedy or None,
        "thief_of": _gets(way),
    }


def release(
    keystore: KeystoreOption = None,
    cluster: Annotated[Path | None, typer.Option(help="Whose program gets the keys.")] = None,
) -> None:
    """Open a keystore by itself for the programs of tde pg install-bin, into their pipe.

    They start this where only a provider opens it: c_ext/program/release.c.
    """
    from tde.errors import TdeError
    from tde.keystore.crypto.secret import wipe
    from tde.keystore.opening import open_unattended
    from tde.postgres.cluster.key_log import tell_of_cluster
    from tde.whole_writes import write_all

    # Neither a terminal nor a file may ever get it.
    if not stat.S_ISFIFO(os.fstat(1).st_mode):
        raise KeystoreError("this is for the programs of tde pg install-bin, which read a pipe")
    with open_unattended(require_keystore(keystore)) as opened:
        content = opened.auto_open_content()
        content.append(opened.level != "full")
        try:
            write_all(1, content)
        finally:
            wipe(content)
        if cluster is not None:
            # The program has its keys; what the log is not told keeps it from nothing.
            with suppress(TdeError, OSError):
                tell_of_cluster(opened, cluster)


def register(parent: typer.Typer) -> None:
    """Add the commands to those of ``tde keystore``."""
    parent.command("release", hidden=True)(release)
    parent.add_typer(app, name="auto-open")
