"""Opening a keystore in the way that its operator chose."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from tde.keystore.crypto.secret import wipe
from tde.keystore.providers.passphrase_source import PROMPT, PassphraseSource, read_passphrase

if TYPE_CHECKING:
    from tde.keystore.keystore import Keystore


def open_keystore(directory: Path, source: PassphraseSource = PROMPT) -> Keystore:
    """Read the passphrase from its source and open the keystore.

    Without a named source, a keystore that opens by itself does so.

    The result is a context manager; leaving it wipes the master key.

    Raises:
        KeystoreError: the passphrase cannot be read or the keystore cannot be opened.
    """
    (opened,) = open_keystores([directory], source)
    return opened


def open_keystores(
    directories: Sequence[Path], source: PassphraseSource = PROMPT
) -> list[Keystore]:
    """Open copies of a keystore, all with one passphrase, which is read once.

    Raises:
        KeystoreError: as :func:`open_keystore`; none is open then.
    """
    # Imported here because it loads the cryptography package, which `--help` must not wait for.
    from tde.keystore.keystore import Keystore
    from tde.keystore.providers.auto_open import can_open_automatically
    from tde.keystore.status import keystore_uuid

    # A missing or damaged keystore is reported before the operator types a passphrase.
    for directory in directories:
        keystore_uuid(directory)
    with ExitStack() as stack:
        passphrase = None
        opened = []
        for directory in directories:
            if source == PROMPT and can_open_automatically(directory):
                keystore = stack.enter_context(Keystore.open_automatically(directory))
                tell_of_opening(keystore, "auto-open.key")
                opened.append(keystore)
                continue
            if passphrase is None:
                passphrase = read_passphrase(source, prompt=f"Passphrase of {directory}: ")
                stack.callback(wipe, passphrase)
            keystore = stack.enter_context(Keystore.open(directory, passphrase))
            # Files, descriptors and commands may be those of a unit that starts the server at boot.
            keystore.by_hand = source == PROMPT
            tell_of_opening(keystore, "the passphrase")
            opened.append(keystore)
        if passphrase is not None:
            wipe(passphrase)
        stack.pop_all()
    return opened


def tell_of_opening(keystore: Keystore, means: str) -> None:
    """Tell in the key log what a keystore was opened with."""
    from tde.keystore.log.writing import write_entry_if_possible

    write_entry_if_possible(keystore.path, "open keystore", {"with": means}, keystore.log_author())
