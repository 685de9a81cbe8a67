"""``tde keystore sync``: all copies of a keystore get its keys."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tde.cli.options import KeystoreOption, opens_keystore, require_keystore
from tde.console.apps import examples
from tde.console.output import console
from tde.errors import KeystoreError
from tde.keystore.opening import open_keystore
from tde.keystore.providers.passphrase_source import PROMPT, PassphraseSource

if TYPE_CHECKING:
    from tde.keystore.copies.syncing import SyncResult


def register(app: typer.Typer) -> None:
    """Add the commands to those of ``tde keystore``."""
    app.command(
        epilog=examples(
            "tde keystore sync node2:/etc/tde/main node3:/etc/tde/main -k /etc/tde/main",
            "tde keystore sync root@node2:/etc/tde/main -k /etc/tde/main --ssh 'ssh -p 2222'",
            "# A copy on this machine:",
            "tde keystore sync /etc/tde/standby -k /etc/tde/main",
        )
    )(sync)
    app.command(hidden=True)(receive)


@opens_keystore
def sync(
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="HOST:DIR|DIR...", help="The copies: on other machines, or on this one."
        ),
    ],
    keystore: KeystoreOption = None,
    ssh: Annotated[
        str, typer.Option("--ssh", metavar="COMMAND", help="What connects to another machine.")
    ] = "ssh",
    program: Annotated[
        str, typer.Option("--remote-tde", metavar="PATH", help="Where tde is there.")
    ] = "tde",
    source: PassphraseSource = PROMPT,
) -> None:
    """Bring the keys of a keystore to its copies, such as those of standbys.

    Each copy gets the keys that it lacks, all of them or none; nothing is replaced or removed.
    Where there is no keystore yet, one is made. The keys travel as they are stored, wrapped by the
    master key, with the envelopes of providers; auto-open.key stays here. Another machine is
    reached with its own ssh, as whoever owns the copy there or as root; its copy has to open by
    itself. Afterwards each says what it has, and that is compared.

    The passphrase is for copies on this machine that do not open by themselves.
    """
    from tde.keystore.copies.syncing import Remote, parse_target, sync_here, sync_there

    path = require_keystore(keystore)
    parsed = [(text, parse_target(text)) for text in targets]
    failed: list[KeystoreError] = []
    for text, target in parsed:
        try:
            if isinstance(target, Remote):
                result = sync_there(path, target, ssh=shlex.split(ssh), tde=program)
            else:
                result = sync_here(path, target, lambda copy: open_keystore(copy, source), _owner)
        except KeystoreError as error:
            failed.append(error)  # The others get their keys all the same.
            continue
        _report(text, result)
    if len(failed) == 1:
        raise failed[0]
    if failed:
        raise KeystoreError(
            "; ".join(map(str, failed)), remedy=" ".join(error.remedy or "" for error in failed)
        )


def receive(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The copy's directory.")],
) -> None:
    """Take a copy of a keystore from standard input: the other side of tde keystore sync."""
    from tde.keystore.copies.syncing import answer_of, receive_copy

    result = receive_copy(sys.stdin.buffer, directory, open_keystore, _owner)
    typer.echo(answer_of(result))


def _owner(path: Path) -> tuple[int, int] | None:
    """Return whom root gives a new copy to: the user that runs the server."""
    from tde.postgres.server.os_user import require_reachable, server_os_user

    user = server_os_user(None)
    require_reachable(user, path, "the keystore")
    return None if user is None else (user.uid, user.gid)


def _report(target: str, result: SyncResult) -> None:
    if result.created:
        text = f"{target}: a new copy, with {len(result.present)} keys"
    elif result.added:
        text = f"{target}: added {', '.join(result.added)}"
    else:
        text = f"{target}: lacks nothing"
    console.print(text, markup=False, soft_wrap=True)
