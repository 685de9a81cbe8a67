"""The master key by a passphrase: Argon2id makes the key that wraps it."""

from __future__ import annotations

import hmac
import time
from pathlib import Path

from tde.errors import KeystoreError, WrongPassphraseError
from tde.keystore.crypto.kdf import derive_kek
from tde.keystore.crypto.passing_process import pass_on
from tde.keystore.crypto.secret import SecretBuffer, wipe
from tde.keystore.crypto.wrapping import UnwrapError, Wrapped, new_nonce, unwrap_into, wrap
from tde.keystore.providers.passphrase_form import near_misses
from tde.keystore.providers.passphrase_source import require_bytes
from tde.keystore.store.document import KeystoreDocument, KeystoreHeader
from tde.keystore.store.layout import document_path

# Seconds that are spent on finding out how a wrong passphrase is wrong.
_PATIENCE = 3.0


class PassphraseProvider:
    """Wraps and unwraps a master key under a passphrase, which stays the caller's to wipe."""

    def __init__(self, passphrase: bytes | bytearray) -> None:
        require_bytes(passphrase)
        self._passphrase = passphrase

    def wrap_master_key(self, header: KeystoreHeader, master_key: SecretBuffer) -> KeystoreDocument:
        """Return the document of a keystore that this passphrase opens."""

        def work() -> Wrapped:
            with derive_kek(self._passphrase, header.salt, header.kdf) as kek:
                return wrap(kek, master_key, new_nonce(), header.context())

        return KeystoreDocument(header, pass_on(work))

    def wrap_and_compare(
        self, directory: Path, header: KeystoreHeader, master_key: SecretBuffer
    ) -> KeystoreDocument:
        """Return the document that replaces another, after a look whether it gives the master key.

        It is the last moment at which a fault of the machine costs nothing.

        Raises:
            KeystoreError: it does not.
        """
        made = self.wrap_master_key(header, master_key)
        with (
            self.unwrap_master_key(directory, made) as again,
            again.view as found,
            master_key.view as wanted,
        ):
            same = hmac.compare_digest(found, wanted)
        if not same:
            raise KeystoreError(
                "the new keystore.json does not give the master key",
                remedy="Nothing was changed. Test the memory of this machine.",
            )
        return made

    def unwrap_master_key(self, directory: Path, document: KeystoreDocument) -> SecretBuffer:
        """Return the master key; see :class:`~tde.keystore.providers.provider.MasterKeyProvider`.

        Raises:
            WrongPassphraseError: the master key does not unwrap.
        """
        master_key = SecretBuffer(len(document.master_key.ciphertext), shared=True)
        try:
            pass_on(lambda: self._unwrap_into(master_key, directory, document))
        except BaseException:
            master_key.close()
            raise
        return master_key

    def fits(self, document: KeystoreDocument) -> bool:
        """Tell whether this is the passphrase of a keystore."""
        return pass_on(lambda: _fits(self._passphrase, document))

    def _unwrap_into(
        self, master_key: SecretBuffer, directory: Path, document: KeystoreDocument
    ) -> None:
        try:
            _unwrap_into(master_key, self._passphrase, document)
        except UnwrapError:
            # An accident would have shown in the checksum, so the file is intact.
            raise self._wrong(directory, document) from None

    def _wrong(self, directory: Path, document: KeystoreDocument) -> WrongPassphraseError:
        message = f"wrong passphrase for the keystore {directory}"
        until = time.monotonic() + _PATIENCE
        for other, difference, remedy in near_misses(self._passphrase):
            try:
                if time.monotonic() < until and _fits(other, document):
                    return WrongPassphraseError(
                        f"{message}: it would be right {difference}", remedy=remedy
                    )
            finally:
                wipe(other)
        return WrongPassphraseError(
            message,
            remedy="Try again. If you are sure of the passphrase, "
            f"somebody has altered {document_path(directory)}: restore it from a backup.",
        )


def _unwrap_into(
    master_key: SecretBuffer, passphrase: bytes | bytearray, document: KeystoreDocument
) -> None:
    header = document.header
    with derive_kek(passphrase, header.salt, header.kdf) as kek:
        unwrap_into(master_key, kek, document.master_key, header.context())


def _fits(passphrase: bytes | bytearray, document: KeystoreDocument) -> bool:
    with SecretBuffer(len(document.master_key.ciphertext)) as unused:
        try:
            _unwrap_into(unused, passphrase, document)
        except UnwrapError:
            return False
    return True
