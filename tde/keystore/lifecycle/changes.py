"""What an officer says of keys: marks and age limits. Both are entries of the key log only."""

from __future__ import annotations

from pathlib import Path

from tde.errors import KeyMissingError, KeystoreError
from tde.keystore.lifecycle import events
from tde.keystore.lifecycle.limits import LONGEST_LIMIT
from tde.keystore.lifecycle.lives import read_lives
from tde.keystore.lifecycle.states import KeyLife, KeyState, KeystoreLife
from tde.keystore.open_master_key import OpenMasterKey
from tde.keystore.store.files import exclusive_lock

LONGEST_REASON = 500
"""Characters."""
MARKS = (KeyState.SUSPENDED, KeyState.COMPROMISED, KeyState.ACTIVE)


def find_key(life: KeystoreLife, name: str) -> KeyLife:
    """Return the key that somebody names: by its id, the name of its file, or ``wal.2``.

    Raises:
        KeyMissingError: there is none, or several.
    """
    stem = name.removesuffix(".key")
    found = [key for key in life.keys if key.key_id == stem]
    if not found:
        found = [
            key
            for key in life.keys
            if key.owner.key_id is not None
            and (
                key.owner.key_id.hex == stem.lower().replace("-", "")
                or key.key_id.startswith(f"{stem}.")
            )
        ]
    if len(found) == 1:
        return found[0]
    several = f"{len(found)} keys" if found else "no key"
    raise KeyMissingError(
        f"the keystore {life.path} has {several} with the name {name}",
        remedy="tde keystore history shows the ids of all keys; give one of them in full.",
    )


def mark_key(keystore: OpenMasterKey, name: str, state: KeyState, reason: str) -> KeyLife:
    """Write down what an officer says of a key, and return its life after that.

    A suspended key may become active again; a compromised one stays that until it is destroyed.

    Args:
        name: as for :func:`find_key`.
        state: one of `MARKS`.
        reason: of at most `LONGEST_REASON` characters.

    Raises:
        KeyMissingError: there is no such key.
        KeystoreError: it cannot get this mark, or the entry could not be written.
    """
    if len(reason) > LONGEST_REASON:
        raise KeystoreError(f"the reason has {len(reason)} characters, more than {LONGEST_REASON}")
    with exclusive_lock(keystore.path):
        keystore.require_current_master_key()
        key = find_key(read_lives(keystore.path, keystore), name)
        _require_markable(key, state)
        keystore.log(events.MARK, key=key.owner.file_name, state=state.value, reason=reason)
        return find_key(read_lives(keystore.path, keystore), name)


def _require_markable(key: KeyLife, state: KeyState) -> None:
    what = f"the key of {key.owner} ({key.key_id})"
    if key.state is None:
        raise KeystoreError(
            f"{what} is a plaintext entry, and no key", remedy="There is nothing to mark."
        )
    if key.state.is_destroyed and state is not KeyState.COMPROMISED:
        raise KeystoreError(f"{what} is destroyed", remedy="It can only be marked as compromised.")
    if key.compromised is not None and state is not KeyState.COMPROMISED:
        raise KeystoreError(
            f"{what} is marked as compromised, which cannot be taken back",
            remedy="Give what it protects another key, then destroy it. As long as there is only a "
            "suspicion, mark keys as suspended.",
        )


def set_age_limit(keystore: OpenMasterKey, what: str, days: int | None) -> None:
    """Set or lift an age limit.

    Args:
        what: ``all``, ``wal``, ``master key``, ``passphrase``, or the name of a key's file. A limit
            for all takes the place of all that were set before.
        days: 1 to `LONGEST_LIMIT`; ``None`` lifts it.

    Raises:
        KeystoreError: the entry could not be written.
    """
    if days is not None and not 1 <= days <= LONGEST_LIMIT:
        raise KeystoreError(f"an age limit has 1 to {LONGEST_LIMIT} days, not {days}")
    with exclusive_lock(keystore.path):
        keystore.require_current_master_key()
        keystore.log(events.LIMIT, of=what, days=days)


def forget_place(keystore: OpenMasterKey, directory: Path) -> None:
    """Write down that a cluster or a backup is gone for good.

    Raises:
        KeystoreError: the log knows none there, or the entry could not be written.
    """
    wanted = directory.absolute()
    with exclusive_lock(keystore.path):
        keystore.require_current_master_key()
        places = read_lives(keystore.path, keystore).places
        if all(place.directory != wanted for place in places):
            known = ", ".join(str(place.directory) for place in places) or "none"
            raise KeystoreError(
                f"the key log of {keystore.path} knows no cluster and no backup at {wanted}",
                remedy=f"Those that it knows: {known}",
            )
        keystore.log(events.FORGET, directory=str(wanted))
