"""The envelopes of a keystore when its master key is rotated: made anew, and the old ones removed.

A rotation has every provider wrap a key for the next master key, so whoever decides what is asked
there would get it. Nothing but the envelope says what to ask, and files, tokens and servers may be
others than when it was made. So before anything of an envelope is used it must be the keystore's
own, the last one added, and accepted on this machine; and what it names must open it as it is.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from tde.errors import KeystoreError, ProviderError
from tde.keystore.envelopes import make_tried_envelope, require_own
from tde.keystore.keystore import Keystore
from tde.keystore.providers.acceptance import accept_command, may_be_used_unasked
from tde.keystore.providers.envelope_provider import (
    forget_kek,
    is_opened_by_people,
    open_envelope,
    unwrap_kek,
)
from tde.keystore.store.contents import is_remains, list_envelopes
from tde.keystore.store.envelope import Envelope, read_envelope, remove_envelope_command
from tde.keystore.store.files import sync_directory
from tde.keystore.store.layout import envelope_path, unlock_path


def rotated_envelopes(old: Keystore, rotated: Keystore) -> dict[Path, bytes]:
    """Return all envelopes of a keystore anew, for the master key that a rotation brings.

    Raises:
        KeystoreError: an envelope cannot be read, is not the keystore's own or was not accepted
            here; or its provider does not open it, or cannot wrap.
    """
    names = [name for name, id_ in list_envelopes(old.path) if id_ == old.master_key_id]
    # All are looked at before the first one has something run.
    found = [_usable(old, name) for name in names]
    return {
        envelope_path(old.path, one.header.name, rotated.master_key_id): _rotated(old, rotated, one)
        for one in found
    }


def other_envelopes(keystore: Keystore) -> list[Path]:
    """Return the files of the envelopes of other master keys."""
    return [
        envelope_path(keystore.path, name, master_key_id)
        for name, master_key_id in list_envelopes(keystore.path)
        if master_key_id != keystore.master_key_id
    ]


def discard_other_envelopes(keystore: Keystore) -> None:
    """Remove the envelopes of other master keys, and what writers that died have left.

    The caller holds the lock.
    """
    path, place = keystore.path, unlock_path(keystore.path)
    others = [one for one in list_envelopes(path) if one[1] != keystore.master_key_id]
    for name, master_key_id in others:
        # What the kernel keeps would open copies of the keystore from before the rotation.
        with suppress(KeystoreError):
            forget_kek(path, read_envelope(path, name, keystore.uuid, master_key_id).header)
        envelope_path(path, name, master_key_id).unlink()
    left = [file for file in place.iterdir() if is_remains(file.name)] if place.is_dir() else []
    for file in left:
        file.unlink()
    if others or left:
        sync_directory(place)


def _usable(old: Keystore, name: str) -> Envelope:
    repair = f"Repair it (tde keystore provider test {name})"
    try:
        envelope = read_envelope(old.path, name, old.uuid, old.master_key_id)
        require_own(old, envelope)
        if not may_be_used_unasked(old.path, envelope.header):
            accept = accept_command(old.path, name)
            repair = f"Look at it (tde keystore provider list), and accept it: {accept}"
            raise ProviderError(
                f"provider {name} ({envelope.header.type}) was not accepted on this machine"
            )
    except KeystoreError as error:
        raise _refused(old, name, error, repair) from error
    return envelope


def _rotated(old: Keystore, rotated: Keystore, before: Envelope) -> bytes:
    header = before.header
    try:
        # Whoever has exchanged the secret, the token or the server since does not know the old key.
        if not is_opened_by_people(header):
            with unwrap_kek(old.path, header) as kek:
                open_envelope(old.path, before, kek).close()
        made = replace(header, master_key_id=rotated.master_key_id)
        return make_tried_envelope(rotated, made, (), is_rotation=True).encode()
    except KeystoreError as error:
        repair = f"Repair it (tde keystore provider test {header.name})"
        raise _refused(old, header.name, error, repair) from error


def _refused(old: Keystore, name: str, error: KeystoreError, repair: str) -> KeystoreError:
    return type(error)(
        f"the master key cannot be rotated, because the keystore would no longer open by all its "
        f"providers: {error}",
        remedy=f"Nothing was changed. {repair}, or do without it: "
        f"{remove_envelope_command(old.path, name)}",
    )
