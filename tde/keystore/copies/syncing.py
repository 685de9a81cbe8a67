"""Bringing the keys of a keystore to its copies: here, and on other machines through ssh.

The other side runs `tde keystore receive`, which does all that is done to its copy: it adds what is
missing, all of it or nothing, replaces nothing, and says in the end what it has. Only that is
believed.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from tde.errors import KeystoreError
from tde.keystore.copies.adding import add_missing_keys
from tde.keystore.copies.backup import restore_keystore
from tde.keystore.copies.passing import pack_copy, unpack_copy
from tde.keystore.keystore import Keystore
from tde.keystore.status import inspect_keystore, keystore_uuid
from tde.keystore.store.layout import document_path
from tde.keystore.store.reading import list_owners

#: HOST:DIR or USER@HOST:DIR, with an IPv6 address in brackets; a path that has a colon is written
#: with a slash before it.
_REMOTE = re.compile(
    r"(?P<host>[^/:\s\[\]]+|(?:[^/:\s\[\]]+@)?\[[0-9A-Fa-f:.]+\]):(?P<directory>.+)"
)
_SECONDS = 120


@dataclass(frozen=True)
class SyncResult:
    """What has become of one copy.

    Attributes:
        created: whether there was no keystore before.
        added: files of the keys that it got.
        present: files of all keys that it has now.
    """

    uuid: str
    created: bool
    added: list[str]
    present: list[str]


@dataclass(frozen=True)
class Remote:
    """A keystore on another machine.

    Attributes:
        host: as ssh takes it.
        directory: of the keystore there.
    """

    host: str
    directory: str


def parse_target(text: str) -> Remote | Path:
    """Return the copy that is named: ``HOST:DIR``, or a directory here.

    Raises:
        KeystoreError: it is neither, or ssh would take the host for an option.
    """
    found = _REMOTE.fullmatch(text)
    if found is None:
        if "/" not in text and not document_path(Path(text)).exists():
            raise KeystoreError(
                f"{text} names no copy of a keystore",
                remedy=f"On another machine: {text}:DIR. A new one here: ./{text}.",
            )
        return Path(text)
    if found["host"].startswith("-"):
        raise KeystoreError(f"{found['host']} cannot be the name of a machine")
    if found["directory"].startswith("~"):
        raise KeystoreError(
            f"{text}: a ~ would not be expanded there", remedy="Write the whole path."
        )
    # ssh takes an address with colons as it is; the brackets part it from the directory.
    return Remote(re.sub(r"[\[\]]", "", found["host"]), found["directory"])


def sync_here(
    source: Path,
    target: Path,
    opener: Callable[[Path], Keystore],
    owner: Callable[[Path], tuple[int, int] | None] = lambda _: None,
) -> SyncResult:
    """Add the keys of a keystore to a copy on this machine, or make that copy.

    Args:
        source: the keystore, which stays closed.
        target: the copy's directory; where there is no keystore one is made.
        opener: opens the copy.
        owner: says whom root gives a new copy to, by user and group.

    Raises:
        KeystoreError: as :func:`~tde.keystore.copies.adding.add_missing_keys` and
            :func:`~tde.keystore.copies.backup.restore_keystore`; nothing was changed.
    """
    _require_keys(source)
    if not document_path(target).exists():
        restore_keystore(source, target, owner=owner(target))
        names = _names(target)
        return SyncResult(keystore_uuid(target).hex, created=True, added=names, present=names)
    ours, theirs = inspect_keystore(source), inspect_keystore(target)
    if ours.uuid == theirs.uuid and ours.master_key_id != theirs.master_key_id:
        raise KeystoreError(
            f"{target} has another master key: that of one of the two was rotated",
            remedy="Nothing was changed. Copy a backup to where it is, and use tde keystore copy, "
            "which opens both.",
        )
    with opener(target) as opened:
        added = add_missing_keys(source, opened)
    return SyncResult(
        keystore_uuid(target).hex,
        created=False,
        added=[owner.file_name for owner in added],
        present=_names(target),
    )


def receive_copy(
    stream: BinaryIO,
    target: Path,
    opener: Callable[[Path], Keystore],
    owner: Callable[[Path], tuple[int, int] | None] = lambda _: None,
) -> SyncResult:
    """Do the same with a copy that comes as a stream.

    Raises:
        KeystoreError: as :func:`sync_here`, or the stream is damaged.
        OSError: there is no room for it.
    """
    with tempfile.TemporaryDirectory(prefix="tde-") as directory:
        copy = Path(directory) / "keystore"
        copy.mkdir(mode=0o700)
        unpack_copy(stream, copy)
        return sync_here(copy, target, opener, owner)


def sync_there(source: Path, target: Remote, *, ssh: Sequence[str], tde: str) -> SyncResult:
    """Have another machine add the keys of a keystore to its copy.

    Args:
        source: the keystore, which stays closed.
        ssh: the command that connects, for example ``["ssh", "-p", "2222"]``.
        tde: the program there.

    Raises:
        KeystoreError: it cannot be reached, refuses, or lacks keys afterwards.
    """
    _require_keys(source)
    place = f"{target.host}:{target.directory}"
    command = f"{tde} keystore receive {shlex.quote(target.directory)}"
    packed = pack_copy(source, place)
    try:
        done = subprocess.run(
            [*ssh, target.host, command],
            input=packed,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KeystoreError(
            f"{place} cannot be reached: {error}",
            remedy="It may have got its keys all the same: repeat the command.",
        ) from error
    said = done.stderr.decode(errors="replace").strip()
    if done.returncode != 0:
        raise KeystoreError(
            f"{place} did not take the keys (status {done.returncode}): {said}",
            remedy="tde must be in the PATH of that login, or be named with --remote-tde, and the "
            "copy must open by itself, or be new; else copy a backup there, and use tde keystore "
            "copy.",
        )
    result = _read_answer(done.stdout, place)
    _require_all(source, result, place)
    return result


def _require_keys(source: Path) -> None:
    """Refuse a keystore without keys: each copy would get first keys of its own."""
    if not _names(source):
        raise KeystoreError(
            f"the keystore {source} has no keys yet, and a copy would get others than it",
            remedy="Make its keys first, here: tde pg init, or tde pg install-bin.",
        )


def answer_of(result: SyncResult) -> str:
    """Return what the receiving side prints."""
    return json.dumps(asdict(result))


def _read_answer(answer: bytes, place: str) -> SyncResult:
    try:
        return SyncResult(**json.loads(answer))
    except (ValueError, TypeError) as error:
        raise KeystoreError(
            f"{place} has answered something unexpected: {error}",
            remedy="Use the same version of tde on both machines, and see that a login there says "
            "nothing.",
        ) from error


def _require_all(source: Path, result: SyncResult, place: str) -> None:
    """Check what the other side says that it has, read back from its disk."""
    if result.uuid != keystore_uuid(source).hex:
        raise KeystoreError(f"{place} is another keystore, {result.uuid}")
    lacking = sorted(set(_names(source)) - set(result.present))
    if lacking:
        raise KeystoreError(f"{place} still lacks {', '.join(lacking)}")


def _names(directory: Path) -> list[str]:
    return [owner.file_name for owner in list_owners(directory)]
