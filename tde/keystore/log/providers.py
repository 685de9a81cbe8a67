"""What the key log says of the providers of a keystore: which were added last, and how.

An envelope is a file, and who may write to the keystore can put an older one back: that of a
provider that was removed, or one of the same name that opened more. Each is authentic. So an
envelope counts only where it fits the last entry of its name.

Additions count with a good code alone. A removal needs no passphrase, so its entry has none; who
forges one closes a way and opens none.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from uuid import UUID

from tde.errors import KeystoreDamagedError
from tde.keystore.log.entry import LogEntry, code_key, log_path
from tde.keystore.log.reading import ROTATION_EVENT, log_secret_of, read_entries_of
from tde.keystore.store.document import canonical
from tde.keystore.store.envelope import EnvelopeHeader, remove_envelope_command
from tde.keystore.store.layout import envelope_path

ADDED, REMOVED = "add provider", "remove provider"
DIGEST = "sha256"
_CHANGED_BY_ROTATION = ("master_key_id", "wrapped_kek")


def digest_of(header: EnvelopeHeader) -> str:
    """Return the SHA-256 of what an envelope says and keeps in all rotations, in 64 digits."""
    fields = header.fields()
    for name in _CHANGED_BY_ROTATION:
        del fields[name]
    return hashlib.sha256(canonical(fields)).hexdigest()


def provider_entries(directory: Path, author: tuple[UUID, bytes] | None = None) -> list[LogEntry]:
    """Return the entries that :func:`require_added` needs.

    Args:
        author: id and log secret of the master key of now, with which the index of the log is
            checked; without it they may be a forger's work, like the log.

    Raises:
        KeystoreError: the log cannot be read.
    """
    return read_entries_of(directory, ADDED, REMOVED, ROTATION_EVENT, author=author)


def require_added(
    directory: Path,
    header: EnvelopeHeader,
    entries: list[LogEntry],
    author: tuple[UUID, bytes] | None,
) -> None:
    """Refuse an envelope that is not the one that was added last under its name.

    One that the log does not know is older than such entries.

    Args:
        entries: of :func:`provider_entries`.
        author: id and log secret of the master key of now; without it no code is checked, and what
            is refused only then may be a forger's work.

    Raises:
        KeystoreDamagedError: it was removed, or was another one.
    """
    of_name = [
        entry
        for entry in entries
        if entry.details.get("provider") == header.name
        and (entry.event == REMOVED or (entry.event == ADDED and _counts(entry, entries, author)))
    ]
    if not of_name:
        return
    # By number, which the code covers: an old line that was copied to the end is still an old one.
    last = max(of_name, key=lambda entry: entry.number)
    if last.event == ADDED and last.details.get(DIGEST, digest_of(header)) == digest_of(header):
        return
    path = envelope_path(directory, header.name, header.master_key_id)
    what = "was removed" if last.event == REMOVED else "is another one than was added"
    raise KeystoreDamagedError(
        f"{path} {what}, by line {last.number} of {log_path(directory)}: that was interrupted, or "
        "somebody has put it there",
        remedy=f"Remove it: {remove_envelope_command(directory, header.name)}. If it is to open "
        "the keystore, add it then: tde keystore provider add",
    )


def _counts(entry: LogEntry, entries: list[LogEntry], author: tuple[UUID, bytes] | None) -> bool:
    if entry.master_key_id is None:
        return False
    if author is None:
        return True
    secret = log_secret_of(entries, author, entry.master_key_id.hex)
    return secret is not None and entry.has_code_of(code_key(secret))
