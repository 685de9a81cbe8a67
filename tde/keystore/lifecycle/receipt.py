"""The receipt of a destroyed key: what was destroyed, when, by whom, and a code that proves it.

The code is HMAC-SHA256 under a key that is derived from the log secret of the master key. Each
rotation keeps the log secret before it (:mod:`tde.keystore.log.reading`), so a receipt can be
verified for as long as the log leads back to the master key of its time.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from tde.errors import KeystoreDamagedError, KeystoreError
from tde.keystore.crypto.derivation import derive_authentication_key
from tde.keystore.lifecycle import events
from tde.keystore.log.entry import LogEntry
from tde.keystore.log.reading import KeyLog, log_secret_of, read_key_log
from tde.keystore.open_master_key import OpenMasterKey
from tde.keystore.store.layout import destroying_path, record_path
from tde.keystore.store.names import owner_of_file

FORMAT = "tde-destruction-receipt"
VERSION = 1
LONGEST_RECEIPT = 1 << 20
"""Bytes; one with a thousand backups has some 100,000."""
_LABEL = b"receipt"

NOT_COVERED = (
    "Backups and other copies of the keystore that were made before still have the key: those that "
    "the key log knows are listed here. Restoring one brings the key back.",
    "The record was overwritten in its file. An SSD or a file system that writes elsewhere "
    "(copy-on-write, snapshots, a journal of data) may keep the old bytes. They are wrapped with "
    "the master key: rotate that (tde keystore rotate), and destroy its copies, to make them "
    "useless.",
    "Earlier rotations of the master key have removed records with an older wrapping without "
    "overwriting them.",
    "WAL archives and base backups that nobody named were not looked at.",
)


@dataclass(frozen=True)
class ReceiptCheck:
    """What the verification of a receipt has found.

    Attributes:
        receipt: its fields.
        problems: what is wrong, a sentence each; empty when it is genuine.
        in_log: whether the log of this keystore has the entries that it names, and is whole.
        present: whether this keystore has a record of the key, as a copy from before has, or one
            into which it was put back by hand.
    """

    receipt: Mapping[str, Any]
    problems: list[str]
    in_log: bool
    present: bool = False

    @property
    def good(self) -> bool:
        """Whether it is genuine."""
        return not self.problems


def make_receipt(
    keystore: OpenMasterKey, entry: LogEntry, done: LogEntry, entries: list[LogEntry]
) -> dict[str, Any]:
    """Return the receipt of a destroyed key.

    Args:
        entry: of the log, written before the destruction.
        done: the one written after it.
        entries: of the whole log.
    """
    master_key_id, secret = keystore.log_author()
    fields: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "keystore": keystore.uuid.hex,
        **_told_by(entry, done, entries),
        "not_covered": list(NOT_COVERED),
        "master_key": master_key_id.hex,
    }
    return {**fields, "code": _code(secret, fields)}


def _told_by(entry: LogEntry, done: LogEntry, entries: list[LogEntry]) -> dict[str, Any]:
    """Return the fields of a receipt that the log tells, for :func:`make_receipt`."""
    details = entry.details
    backups = [
        {"to": one.details.get("to"), "time": one.time.isoformat(), "entry": one.number}
        for one in entries
        if one.event == "back up keystore" and one.number < done.number
    ]
    return {
        "key": details.get("key"),
        "algorithm": details.get("algorithm"),
        "record_sha256": details.get("sha256"),
        "reason": details.get("reason") or None,
        "begun": entry.time.isoformat(),
        "finished": done.time.isoformat(),
        "overwritten": done.details.get("overwritten"),
        "who": dict(entry.who),
        "log_entries": [
            {"number": one.number, "sha256": one.digest.hex()} for one in (entry, done)
        ],
        "looked_at": list(details.get("looked_at", ())),
        "known_backups_of_the_keystore": backups,
    }


def pack_receipt(receipt: Mapping[str, Any]) -> bytes:
    """Return the content of a receipt's file."""
    return json.dumps(receipt, indent=2).encode() + b"\n"


def check_receipt(keystore: OpenMasterKey, file: Path) -> ReceiptCheck:
    """Verify a receipt with the keystore that has written it, or a copy of it.

    Raises:
        KeystoreDamagedError: it is no receipt.
        KeystoreError: it cannot be read, or the key log cannot.
    """
    receipt = _read(file)
    log = read_key_log(keystore.path, keystore.log_author())
    problems = []
    if receipt["keystore"] != keystore.uuid.hex:
        problems.append(f"it is of the keystore {receipt['keystore']}, not of {keystore.uuid.hex}")
        return ReceiptCheck(receipt, problems, False)
    secret = log_secret_of(log.entries, keystore.log_author(), receipt["master_key"])
    fields = {name: value for name, value in receipt.items() if name != "code"}
    if secret is None:
        problems.append(
            f"its code is of the master key {receipt['master_key']}, to which the key log of "
            f"{keystore.path} does not lead back"
        )
    elif not hmac.compare_digest(_code(secret, fields).encode(), receipt["code"].encode()):
        problems.append("it was altered: its code does not fit")
    wrong, in_log = _compare_with_log(receipt, log)
    problems += wrong
    if secret is not None and not in_log and receipt["master_key"] != keystore.master_key_id.hex:
        problems.append(
            f"its code is of an earlier master key, and no proven entries of {log.path} tell of "
            "it: who has that master key could have made it since"
        )
    return ReceiptCheck(receipt, problems, in_log, _is_present(keystore, receipt["key"]))


def _compare_with_log(receipt: Mapping[str, Any], log: KeyLog) -> tuple[list[str], bool]:
    """Return what in a receipt is not as its entries say, and whether the log proves them.

    Who has an old master key can make good codes for ever, and copy numbers and digests of entries
    that tell of another key.
    """
    numbers = {entry.number: entry for entry in log.counting}
    found = [numbers.get(one["number"]) for one in receipt["log_entries"]]
    first, last = (
        entry if entry is not None and entry.digest.hex() == one["sha256"] else None
        for entry, one in zip(found, receipt["log_entries"], strict=True)
    )
    if first is None or last is None:
        return [], False
    is_destruction = (first.event, last.event) == (events.DESTROY, events.DESTROYED)
    same_key = first.details.get("key") == last.details.get("key")
    if not is_destruction or not same_key or last.details.get("entry") != first.number:
        return [f"entries {first.number} and {last.number} tell of no destruction"], False
    told = _told_by(first, last, log.counting)
    differ = [name for name, value in told.items() if receipt.get(name) != value]
    if differ:
        return [
            f"its {', '.join(differ)} are not what entries {first.number} and {last.number} of "
            f"{log.path} tell"
        ], False
    return [], not log.problems


def _is_present(keystore: OpenMasterKey, name: str) -> bool:
    owner = owner_of_file(name)
    if owner is None:
        return False
    files = (record_path(keystore.path, owner), destroying_path(keystore.path, owner))
    return any(os.path.lexists(file) for file in files)


def _read(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as opened:
            data = opened.read(LONGEST_RECEIPT + 1)
    except OSError as error:
        raise KeystoreError(f"could not read {file}: {error.strerror}") from error
    try:
        receipt = json.loads(data[: LONGEST_RECEIPT + 1])
        if receipt["format"] != FORMAT:
            raise ValueError("another format")
        if receipt["version"] != VERSION:
            raise KeystoreDamagedError(
                f"{file} has receipt format {receipt['version']!r}; this release knows {VERSION}",
                remedy="Use the release of tde that wrote it.",
            )
        UUID(hex=receipt["master_key"])
        numbers = [(int(one["number"]), str(one["sha256"])) for one in receipt["log_entries"]]
        texts = [receipt[name] for name in ("keystore", "key", "code", "begun", "finished")]
        if len(numbers) != 2 or not all(isinstance(text, str) for text in texts):
            raise ValueError("a field is malformed")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise KeystoreDamagedError(
            f"{file} is no receipt of tde, or was damaged",
            remedy="Make it again: repeat the command tde keystore destroy KEY.",
        ) from error
    return dict(receipt)


def _code(secret: bytes, fields: Mapping[str, Any]) -> str:
    """Return the code over all fields in the one way in which JSON is written here."""
    key = derive_authentication_key(bytearray(secret), _LABEL)
    content = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
    return hmac.new(key, content, hashlib.sha256).hexdigest()


def destruction_of(entries: list[LogEntry], file_name: str) -> tuple[LogEntry, LogEntry] | None:
    """Return the entries of a destruction that was finished; ``None`` without one."""
    begun: LogEntry | None = None
    for entry in reversed(entries):
        if entry.details.get("key") != file_name:
            continue
        if entry.event == events.DESTROYED:
            begun = entry
        elif entry.event == events.DESTROY:
            return None if begun is None else (entry, begun)
        elif entry.event in (events.CREATE, events.KEEP):
            return None
    return None
