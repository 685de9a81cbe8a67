"""Opening a keystore in the way that its operator chose."""

from __future__ import annotations

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
    # Imported here because it loads the cryptography package, which `--help` must not wait for.
    from tde.keystore.keystore import Keystore
    from tde.keystore.providers.auto_open import can_open_automatically
    from tde.keystore.status import keystore_uuid

    # A missing or damaged keystore is reported before the operator types a passphrase.
    keystore_uuid(directory)
    if source == PROMPT and can_open_automatically(directory):
        return Keystore.open_automatically(directory)
    passphrase = read_passphrase(source, prompt=f"Passphrase of {directory}: ")
    try:
        opened = Keystore.open(directory, passphrase)
        # Files, descriptors and commands may be those of a unit that starts the server at boot.
        opened.by_hand = source == PROMPT
        return opened
    finally:
        wipe(passphrase)
