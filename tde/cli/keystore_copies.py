"""``tde keystore backup``, ``restore`` and ``copy``."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from tde.cli.options import (
    KeystoreOption,
    OsUserOption,
    opens_keystore,
    require_keystore,
)
from tde.console.apps import examples
from tde.console.output import console, error_console
from tde.keystore.opening import open_keystores
from tde.keystore.providers.passphrase_source import PROMPT, PassphraseSource

if TYPE_CHECKING:
    from tde.keystore import KeystoreContent

WithAutoOpenOption = Annotated[
    bool,
    typer.Option(
        "--with-auto-open",
        help="With auto-open.key: whoever has the copy then needs no passphrase.",
    ),
]


def backup(
    destination: Annotated[
        Path, typer.Argument(metavar="DIR", help="A directory that is new or empty.")
    ],
    keystore: KeystoreOption = None,
    with_auto_open: WithAutoOpenOption = False,
) -> None:
    """Copy a keystore into a directory of its own. Needs no passphrase; servers may run.

    The copy is of one moment, is synced to the disk, and was compared byte for byte. Keep it apart
    from the backups of the data and from the passphrase.
    """
    from tde.keystore import back_up_keystore, can_open_automatically

    source = require_keystore(keystore)
    copied = back_up_keystore(source, destination, with_auto_open=with_auto_open)
    console.print(
        f"Backed up keystore {copied.header.uuid.hex} with {len(copied.records)} keys to "
        f"{destination}",
        markup=False,
        soft_wrap=True,
    )
    _tell_what_is_missing(copied)
    _tell_about_missing_keys(source, copied)
    _tell_of_ways(destination, left_out=can_open_automatically(source) and not with_auto_open)


def restore(
    source: Annotated[
        Path, typer.Argument(metavar="BACKUP", help="A directory of `tde keystore backup`.")
    ],
    keystore: KeystoreOption = None,
    os_user: OsUserOption = None,
    with_auto_open: WithAutoOpenOption = False,
) -> None:
    """Make a keystore from a backup, in a directory that is new, empty or lacks keystore.json.

    Nothing is overwritten: keys that are in the directory stay, and an existing keystore is
    refused. To add keys to that: tde keystore copy. Needs no passphrase; tde keystore verify, which
    does, proves that the backup was good. Providers that came along, and run what nobody on this
    machine has accepted, are named.
    """
    from tde.keystore import can_open_automatically, restore_keystore
    from tde.postgres.server.os_user import require_reachable, server_os_user

    path = require_keystore(keystore).absolute()
    server_user = server_os_user(None, name=os_user)
    require_reachable(server_user, path, "the keystore")
    owner = None if server_user is None else (server_user.uid, server_user.gid)
    copied = restore_keystore(source, path, owner=owner, with_auto_open=with_auto_open)
    console.print(
        f"Restored keystore {copied.header.uuid.hex} with {len(copied.records)} keys to {path}",
        markup=False,
        soft_wrap=True,
    )
    _tell_what_is_missing(copied)
    _tell_about_missing_keys(path, copied)
    _tell_of_ways(path, left_out=can_open_automatically(source) and not with_auto_open)
    _tell_of_what_was_not_accepted(path)
    error_console.print(
        f"Next: tde keystore verify --keystore {path}", markup=False, soft_wrap=True
    )


@opens_keystore
def copy(
    origin: Annotated[
        Path, typer.Argument(metavar="FROM", help="Another copy of the same keystore.")
    ],
    destination: Annotated[
        Path | None,
        typer.Argument(
            metavar="[TO]", help="The keystore that gets its keys. Default: --keystore."
        ),
    ] = None,
    keystore: KeystoreOption = None,
    source: PassphraseSource = PROMPT,
) -> None:
    """Add the keys that a keystore lacks from another copy of it, as that of a standby.

    Nothing is replaced or removed. Each key must open with the master key, and where both copies
    have a key for the same thing it must be the same; else nothing at all is added. A running
    server finds the new keys by itself. Where the master key of one copy was rotated, each keeps
    its own: the passphrase must open both, or FROM opens by itself.
    """
    from tde.keystore import add_missing_keys, inspect_keystore

    target = destination if destination is not None else require_keystore(keystore)
    ids = {inspect_keystore(path).master_key_id for path in (target, origin)}
    with ExitStack() as stack:
        opened = open_keystores([target, origin] if len(ids) > 1 else [target], source)
        for copy_ in opened:
            stack.enter_context(copy_)
        added = add_missing_keys(origin, *opened)
    for owner in added:
        console.print(f"Added keys/{owner.file_name} ({owner})", markup=False, soft_wrap=True)
    if not added:
        console.print(f"{target} lacks no key of {origin}", markup=False, soft_wrap=True)


def _tell_what_is_missing(copied: KeystoreContent) -> None:
    for path in copied.left_out:
        error_console.print(
            f"Left out, because it is no file of a keystore: {path}", markup=False, soft_wrap=True
        )


def _tell_about_missing_keys(keystore: Path, copied: KeystoreContent) -> None:
    """Warn of keys that the keystore and so its copy has not; the others are worth a copy."""
    from tde.keystore.store.layout import record_path
    from tde.keystore.store.remedies import bring_key

    missing = copied.missing_keys()
    for owner in missing:
        text = f"{record_path(keystore, owner)} is missing, and the cluster needs it."
        error_console.print(f"[bold yellow]Warning:[/] {escape(text)}", soft_wrap=True)
    if missing:
        error_console.print(f"  {bring_key(keystore)}", markup=False, soft_wrap=True)


def _tell_of_ways(directory: Path, *, left_out: bool) -> None:
    """Name what opens a copy, commands included: they came along from whoever wrote the keystore.

    Args:
        left_out: whether the original has an auto-open.key that was not copied.
    """
    from tde.keystore.ways import other_ways

    if left_out:
        error_console.print("auto-open.key was left out.", soft_wrap=True)
    ways = other_ways(directory)
    if not ways:
        error_console.print("It opens with its passphrase only.", soft_wrap=True)
        return
    error_console.print("It opens with its passphrase, and by:", soft_wrap=True)
    for way in ways:
        for line in (f"  {way.in_words}", *(f"    {one}" for one in way.uses)):
            error_console.print(line, markup=False, soft_wrap=True)
    if not all(way.provider for way in ways):
        error_console.print(
            "[bold yellow]With auto-open.key[/] whoever can read it needs no passphrase.",
            soft_wrap=True,
        )
    if any(way.provider for way in ways):
        error_console.print(
            "Each provider needs something that is not in this directory.", soft_wrap=True
        )


def _tell_of_what_was_not_accepted(directory: Path) -> None:
    """Name the providers that came with a backup, and that nobody on this machine has looked at."""
    from tde.keystore.providers.acceptance import accept_command
    from tde.keystore.ways import other_ways

    for way in other_ways(directory):
        if way.may_be_used:
            continue
        error_console.print(
            f"Provider {way.provider} was not accepted on this machine, so it is used only where "
            "it is named. Look at what is said of it above; then, with the passphrase: "
            f"{accept_command(directory, way.provider)}",
            markup=False,
            soft_wrap=True,
        )


def register(app: typer.Typer) -> None:
    """Add the commands to those of ``tde keystore``."""
    app.command(
        "backup",
        epilog=examples(
            "tde keystore backup /mnt/safe/keystore --keystore /etc/tde/main",
            "# One for each day:",
            "tde keystore backup /mnt/safe/keystore-$(date +%F) -k /etc/tde/main",
        ),
    )(backup)
    app.command(
        "restore",
        epilog=examples(
            "tde keystore restore /mnt/safe/keystore --keystore /etc/tde/main",
            "# As root, for another user than postgres:",
            "tde keystore restore /mnt/safe/keystore -k /etc/tde/main --os-user dba",
        ),
    )(restore)
    app.command(
        "copy",
        epilog=examples(
            "# On a standby, after the primary's backup of its keystore has arrived:",
            "tde keystore copy /root/from-primary /etc/tde/main",
        ),
    )(copy)
