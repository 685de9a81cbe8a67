"""Another passphrase for a keystore; its master key and its key records stay as they are."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from tde.errors import (
    KdfParametersError,
    KeystoreBusyError,
    KeystoreDamagedError,
    PassphraseError,
)
from tde.keystore.crypto.kdf import SALT_BYTES, KdfParameters
from tde.keystore.crypto.secret import SecretBuffer
from tde.keystore.log.writing import telling_of_failures, write_entry
from tde.keystore.open_master_key import OpenMasterKey
from tde.keystore.providers.passphrase import PassphraseProvider
from tde.keystore.providers.passphrase_form import check_new_passphrase
from tde.keystore.providers.provider import MasterKeyProvider
from tde.keystore.store.files import exclusive_lock, write_atomically
from tde.keystore.store.layout import document_path
from tde.keystore.store.reading import find_record, list_owners, read_document
from tde.keystore.store.record import PAYLOAD_BYTES


def change_passphrase(
    path: Path,
    current: MasterKeyProvider,
    passphrase: bytes | bytearray,
    *,
    kdf: KdfParameters | None = None,
) -> None:
    """Wrap the master key under another passphrase, with a new salt and a new nonce.

    At any moment exactly one of the two opens the keystore. The file under the old passphrase is
    gone afterwards, but copies of it that were made before still open with the old one, and give
    the same keys.

    Args:
        path: the keystore's directory.
        current: brings the master key: the current passphrase, or the file that opens the keystore.
        passphrase: the new one, 8 to 200 bytes, which stays the caller's to wipe.
        kdf: a higher cost of the key derivation. Default: as it is.

    Raises:
        PassphraseError: the new passphrase cannot be used, or it is the current one.
        KdfParametersError: the cost would become lower.
        KeystoreDamagedError: what brings the master key, and is not the passphrase, is not proven
            by every key record.
        KeystoreBusyError: somebody else has changed keystore.json meanwhile; this has not.
        KeystoreError: another of its subclasses: the keystore cannot be opened or written.
    """
    check_new_passphrase(passphrase)
    path = path.resolve()
    document = read_document(path)
    header = document.header
    provider = PassphraseProvider(passphrase)
    with telling_of_failures(path), current.unwrap_master_key(path, document) as master_key:
        if kdf is None or kdf == header.kdf:
            _require_another(provider.fits(document))
        else:
            require_no_lower_cost(header.kdf, kdf)
        new_header = replace(header, kdf=kdf or header.kdf, salt=os.urandom(SALT_BYTES))
        opened = OpenMasterKey(path, header, master_key)
        if not isinstance(current, PassphraseProvider):
            _require_own_master_key(opened)
        changed = provider.wrap_and_compare(path, new_header, master_key)
        author = opened.log_author()
    # Key derivations take long, so they come before the lock, and this look after it.
    with exclusive_lock(path):
        if read_document(path) != document:
            raise KeystoreBusyError(
                f"somebody else has changed {document_path(path)} meanwhile",
                remedy="This command has changed nothing. Repeat it with the passphrase of now.",
            )
        cost = {name: getattr(new_header.kdf, name) for name in ("memory_kib", "iterations")}
        write_entry(path, "change passphrase", cost, author)
        write_atomically(document_path(path), changed.encode())


def _require_own_master_key(opened: OpenMasterKey) -> None:
    """Refuse to put a master key into keystore.json that is not that of the keystore.

    Nothing but its passphrase proves one. What opens the keystore by itself may have been put there
    with another master key, and keystore.json has the only copy of the true one. So the key records
    must open, every one: somebody who put one of his own beside them has not the others.

    Raises:
        KeystoreDamagedError: one does not open, or there is none.
    """
    owners = list_owners(opened.path)
    if not owners:
        raise KeystoreDamagedError(
            f"the keystore {opened.path} has no keys yet, so nothing proves that what opens it by "
            "itself is its own",
            remedy="Nothing was changed. Make a new keystore: tde keystore create",
        )
    with SecretBuffer(PAYLOAD_BYTES) as payload:
        for owner in owners:
            try:
                record = find_record(opened.path, owner, opened.master_key_id)
                opened.authenticate(record, owner, payload)
            except KeystoreDamagedError as error:
                raise KeystoreDamagedError(
                    f"{error}; or what has opened the keystore by itself is not its own, and was "
                    "put there",
                    remedy="Nothing was changed. Give the current passphrase; or bring a good copy "
                    f"of the keystore, auto-open.key included, from a backup of {opened.path}.",
                ) from error


def require_no_lower_cost(current: KdfParameters, wanted: KdfParameters) -> None:
    """Refuse a key derivation that would be cheaper to attack than the current one.

    Raises:
        KdfParametersError: memory or iterations would become fewer.
    """
    for name in ("memory_kib", "iterations"):
        before, after = getattr(current, name), getattr(wanted, name)
        if after < before:
            raise KdfParametersError(
                f"the key derivation would be cheaper to attack: {name} = {after}, now {before}",
                remedy="The cost can only be raised; leave the option out to keep it.",
            )


def _require_another(is_current: bool) -> None:
    if is_current:
        raise PassphraseError(
            "the new passphrase is the current one",
            remedy="Nothing was changed. Choose another passphrase; with a higher cost of the key "
            "derivation the same may be kept.",
        )
