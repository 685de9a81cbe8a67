"""``tde keystore passphrase``: change it."""

from __future__ import annotations

import hmac
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tde.cli.options import (
    KeystoreOption,
    PassphraseCommandOption,
    PassphraseFdOption,
    PassphraseFileOption,
    require_keystore,
)
from tde.console.apps import examples
from tde.console.output import console, error_console
from tde.keystore.providers.passphrase_source import PROMPT, PassphraseSource

if TYPE_CHECKING:
    from tde.keystore.crypto.kdf import KdfParameters
    from tde.keystore.providers.provider import MasterKeyProvider

_PANEL = "New passphrase (default: prompt, twice)"
_COST_PANEL = "Cost of the key derivation (default: as it is; it can only be raised)"

NewFileOption = Annotated[
    Path | None,
    typer.Option(
        "--new-passphrase-file",
        metavar="FILE",
        help="Read the new passphrase from a file that only its owner can read.",
        rich_help_panel=_PANEL,
    ),
]
NewFdOption = Annotated[
    int | None,
    typer.Option(
        "--new-passphrase-fd",
        metavar="N",
        min=0,
        help="Read the new passphrase from an open file descriptor.",
        rich_help_panel=_PANEL,
    ),
]
NewCommandOption = Annotated[
    str | None,
    typer.Option(
        "--new-passphrase-command",
        metavar="COMMAND",
        help="Run a shell command and take its standard output as the new passphrase.",
        rich_help_panel=_PANEL,
    ),
]
AutoOpenOption = Annotated[
    bool,
    typer.Option(
        "--with-auto-open",
        help="The current passphrase is lost: open the keystore by its auto-open.key.",
    ),
]
MemoryOption = Annotated[
    int | None,
    typer.Option(
        "--kdf-memory",
        metavar="MIB",
        min=8,
        max=1024,
        help="Memory for each attempt at the passphrase, 8 to 1024 MiB.",
        rich_help_panel=_COST_PANEL,
    ),
]
IterationsOption = Annotated[
    int | None,
    typer.Option(
        "--kdf-iterations",
        metavar="N",
        min=1,
        max=16,
        help="Passes over that memory, 1 to 16.",
        rich_help_panel=_COST_PANEL,
    ),
]

EPILOG = examples(
    "# Asks for the current passphrase, then twice for the new one:",
    "tde keystore passphrase --keystore /etc/tde/main",
    "# Without a terminal:",
    "tde keystore passphrase -k /etc/tde/main --passphrase-file old --new-passphrase-file new",
    "# Make each guess four times as expensive for an attacker:",
    "tde keystore passphrase -k /etc/tde/main --kdf-memory 256",
)


def passphrase(
    keystore: KeystoreOption = None,
    passphrase_file: PassphraseFileOption = None,
    passphrase_fd: PassphraseFdOption = None,
    passphrase_command: PassphraseCommandOption = None,
    new_passphrase_file: NewFileOption = None,
    new_passphrase_fd: NewFdOption = None,
    new_passphrase_command: NewCommandOption = None,
    with_auto_open: AutoOpenOption = False,
    kdf_memory: MemoryOption = None,
    kdf_iterations: IterationsOption = None,
) -> None:
    """Change the passphrase. The keys stay the same, and running servers go on.

    Copies and backups of the keystore that were made before still open with the old passphrase,
    and give the same keys: if somebody knows it, destroy them. A keystore that opens by itself goes
    on doing so.
    """
    from tde.keystore import can_open_automatically, change_passphrase, inspect_keystore
    from tde.keystore.crypto.secret import wipe
    from tde.keystore.providers.passphrase_source import read_passphrase
    from tde.keystore.store.reading import read_document

    source = PassphraseSource(passphrase_file, passphrase_fd, passphrase_command)
    new_source = PassphraseSource(
        new_passphrase_file, new_passphrase_fd, new_passphrase_command, "new passphrase"
    )
    if passphrase_fd is not None and passphrase_fd == new_passphrase_fd:
        raise typer.BadParameter("both passphrases cannot come from the same descriptor")
    if with_auto_open and source != PROMPT:
        raise typer.BadParameter("--with-auto-open takes the place of the current passphrase")
    directory = require_keystore(keystore)
    document = read_document(directory.resolve())
    cost = _cost(document.header.kdf, kdf_memory, kdf_iterations)
    current = _current(directory, source, with_auto_open)
    try:
        # A wrong one is told before the operator thinks of another.
        _provider(current).unwrap_master_key(directory.resolve(), document).close()
        new = read_passphrase(new_source, confirm=True, prompt=f"New passphrase of {directory}: ")
        try:
            is_same = hmac.compare_digest(new, current)
            change_passphrase(directory, _provider(current), new, kdf=cost)
        finally:
            wipe(new)
    finally:
        wipe(current)
    if is_same:
        console.print(
            f"Each attempt at the passphrase of {directory} costs more now. It is the same.",
            markup=False,
            soft_wrap=True,
        )
        error_console.print(
            "Copies and backups of the keystore made before have the cost of before: make a new "
            "backup (tde keystore backup).",
            soft_wrap=True,
        )
        return
    console.print(f"The passphrase of {directory} was changed.", markup=False, soft_wrap=True)
    error_console.print(
        "[bold yellow]Copies and backups of the keystore made before still open with the old "
        "passphrase[/], and give the same keys. Make a new backup (tde keystore backup), and "
        "destroy the old ones if somebody else knows the old passphrase.",
        soft_wrap=True,
    )
    if can_open_automatically(directory):
        error_console.print("The keystore still opens by itself.", soft_wrap=True)
    providers = inspect_keystore(directory).providers
    if providers:
        error_console.print(
            f"It still opens by its providers: {', '.join(providers)}.", soft_wrap=True
        )


def _current(directory: Path, source: PassphraseSource, with_auto_open: bool) -> bytearray:
    """Return the current passphrase; nothing when auto-open.key takes its place."""
    from tde.keystore.providers.passphrase_source import read_passphrase

    if with_auto_open:
        return bytearray()
    # Not by itself, even where it could: who sets a passphrase should know the one before.
    return read_passphrase(source, prompt=f"Current passphrase of {directory}: ")


def _provider(current: bytearray) -> MasterKeyProvider:
    from tde.keystore.providers.auto_open import AutoOpenProvider
    from tde.keystore.providers.passphrase import PassphraseProvider

    return PassphraseProvider(current) if current else AutoOpenProvider()


def _cost(now: KdfParameters, memory: int | None, iterations: int | None) -> KdfParameters | None:
    """Return the cost that is wanted, checked before anybody types a passphrase."""
    from dataclasses import replace

    from tde.keystore.passphrase_change import require_no_lower_cost

    if memory is None and iterations is None:
        return None
    wanted = replace(
        now,
        memory_kib=now.memory_kib if memory is None else memory * 1024,
        iterations=now.iterations if iterations is None else iterations,
    )
    require_no_lower_cost(now, wanted)
    return wanted


def register(app: typer.Typer) -> None:
    """Add the command to those of ``tde keystore``."""
    app.command("passphrase", epilog=EPILOG)(passphrase)
