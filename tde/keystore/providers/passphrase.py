"""The master key by a passphrase: Argon2id makes the key that wraps it."""

from __future__ import annotations

from pathlib import Path

from tde.errors import WrongPassphraseError
from tde.keystore.crypto.kdf import derive_kek
from tde.keystore.crypto.secret import SecretBuffer
from tde.keystore.crypto.wrapping import UnwrapError, new_nonce, unwrap, wrap
from tde.keystore.store.document import KeystoreDocument, KeystoreHeader
from tde.keystore.store.layout import document_path


class PassphraseProvider:
    """Wraps and unwraps a master key under a passphrase, which stays the caller's to wipe."""

    def __init__(self, passphrase: bytes | bytearray) -> None:
        self._passphrase = passphrase

    def wrap_master_key(self, header: KeystoreHeader, master_key: SecretBuffer) -> KeystoreDocument:
        """Return the document of a keystore that this passphrase opens."""
        with derive_kek(self._passphrase, header.salt, header.kdf) as kek:
            wrapped = wrap(kek, master_key, new_nonce(), header.context())
        return KeystoreDocument(header, wrapped)

    def unwrap_master_key(self, directory: Path, document: KeystoreDocument) -> SecretBuffer:
        """Return the master key; see :class:`~tde.keystore.providers.provider.MasterKeyProvider`.

        Raises:
            WrongPassphraseError: the master key does not unwrap.
        """
        header = document.header
        with derive_kek(self._passphrase, header.salt, header.kdf) as kek:
            try:
                return unwrap(kek, document.master_key, header.context())
            except UnwrapError:
                # An accident would have shown in the checksum, so the file is intact.
                raise WrongPassphraseError(
                    f"wrong passphrase for the keystore {directory}",
                    remedy="Try again. If you are sure of the passphrase, "
                    f"somebody has altered {document_path(directory)}: restore it from a backup.",
                ) from None
