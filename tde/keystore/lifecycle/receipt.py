"""The receipt of a destroyed key: what was destroyed, when, by whom, and a code that proves it.

The code is HMAC-SHA256 under a key that is derived from the log secret of the master key. Each
rotation keeps the log secret before it (:mod:`tde.keystore.log.reading`), so a receipt can be
verified for as long as the log leads back to the master key of its time.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from tde.errors import KeystoreDamagedError, KeystoreError
from tde.keystore.crypto.derivation import derive_authentication_key
from tde.keystore.lifecycle import events
from tde.keystore.log.entry import LogEntry
from tde.keystore.log.reading import log_secret_of, read_key_log
from tde.keystore.open_master_key import OpenMasterKey

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
        in_log: whether the log of this keystore has the entries that it names.
    """

    receipt: Mapping[str, Any]
    problems: list[str]
    in_log: bool

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
    details = entry.details
    backups = [
        {"to": one.details.get("to"), "time": one.time.isoformat(), "entry": one.number}
        for one in entries
        if one.event == "back up keystore" and one.number < done.number
    ]
    master_key_id, secret = keystore.log_author()
    fields: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "keystore": keystore.uuid.hex,
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
        "not_covered": list(NOT_COVERED),
        "master_key": master_key_id.hex,
    }
    return {**fields, "code": _code(secret, fields)}


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
    numbers = {entry.number: entry for entry in log.entries}
    found = [numbers.get(one["number"]) for one in receipt["log_entries"]]
    in_log = all(
        entry is not None and entry.digest.hex() == one["sha256"]
        for entry, one in zip(found, receipt["log_entries"], strict=True)
    )
    return ReceiptCheck(receipt, problems, in_log and not log.problems)


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
