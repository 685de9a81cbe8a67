"""The interface of what can bring the master key of a keystore."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from tde.keystore.crypto.secret import SecretBuffer
from tde.keystore.store.document import KeystoreDocument


class MasterKeyProvider(Protocol):
    """A way to the master key: a passphrase, a file that opens the keystore, a key server."""

    def unwrap_master_key(self, directory: Path, document: KeystoreDocument) -> SecretBuffer:
        """Return the master key of a keystore; the caller closes it.

        Args:
            directory: the keystore's, with links resolved.
            document: its keystore.json, whose form was checked and whose authenticity was not.

        Raises:
            KeystoreError: one of its subclasses, for whatever is wrong. It holds no secret.
        """
        ...
