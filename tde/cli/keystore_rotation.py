"""``tde keystore rotate``: another master key."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
from tde.keystore.providers.passphrase_source import PassphraseSource

if TYPE_CHECKING:
    from tde.keystore import Keystore

EPILOG = examples(
    "tde keystore rotate --keystore /etc/tde/main",
    "tde keystore rotate -k /etc/tde/main --passphrase-command 'pass show tde/main'",
)


def rotate(
    keystore: KeystoreOption = None,
    passphrase_file: PassphraseFileOption = None,
    passphrase_fd: PassphraseFdOption = None,
    passphrase_command: PassphraseCommandOption = None,
) -> None:
    """Replace the master key: every key is wrapped anew, and no data is touched.

    Servers may run. Those of this machine that use this directory get the new master key, and read
    their configuration again, as with pg_ctl reload. Copies of the keystore that were made before
    still open with the old master key, so make new ones and destroy the others. A rotation that
    was interrupted has broken nothing; give the command again.
    """
    from tde.keystore import inspect_keystore, rotate_master_key
    from tde.keystore.crypto.secret import wipe
    from tde.keystore.providers.passphrase_source import read_passphrase
    from tde.keystore.ways import names_of_no_use, told_of_rotation
    from tde.postgres.cluster.messages import servers_with_keys_of, tell_servers

    source = PassphraseSource(passphrase_file, passphrase_fd, passphrase_command)
    path = require_keystore(keystore)
    before = inspect_keystore(path)
    servers_with_keys_of(before.uuid, before.path)  # Refuses before anything is changed.
    of_no_use = names_of_no_use(path)
    told: list[int] = []

    def tell(opened: Keystore) -> None:
        told.extend(tell_servers(opened))

    passphrase = read_passphrase(source, prompt=f"Passphrase of {before.path}: ")
    try:
        with rotate_master_key(path, passphrase, tell) as rotated:
            new = rotated.master_key_id
    finally:
        wipe(passphrase)
    console.print(
        f"Master key {new.hex} in the place of {before.master_key_id.hex}: "
        f"{len(before.keys)} keys wrapped anew.",
        markup=False,
        soft_wrap=True,
    )
    for line in told_of_rotation(path, of_no_use):
        console.print(line, markup=False, soft_wrap=True)
    for pid in dict.fromkeys(told):
        console.print(f"The server with process id {pid} has it.", markup=False)
    error_console.print(
        "[bold yellow]Back the keystore up again[/], and destroy copies that were made before: "
        "they open with the old master key.",
        soft_wrap=True,
    )


def register(app: typer.Typer) -> None:
    """Add the command to those of ``tde keystore``."""
    app.command("rotate", epilog=EPILOG)(rotate)
