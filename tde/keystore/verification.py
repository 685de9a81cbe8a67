"""Looking at every bit of a keystore: which files are as tde wrote them, and which are not."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG

from tde.errors import KeystoreDamagedError, KeystoreError
from tde.keystore.completeness import missing_keys
from tde.keystore.envelopes import list_providers, require_own
from tde.keystore.inventory import list_keys
from tde.keystore.keystore import Keystore
from tde.keystore.lifecycle import events
from tde.keystore.lifecycle.states import put_back_problem
from tde.keystore.log.entry import log_path
from tde.keystore.log.reading import KeyLog, read_key_log
from tde.keystore.providers.auto_open import AutoOpenProvider, auto_open_path
from tde.keystore.store.contents import being_destroyed, foreign_files, remains
from tde.keystore.store.files import LOCK_NAME
from tde.keystore.store.layout import document_path, record_path, unlock_path
from tde.keystore.store.reading import (
    RecordReader,
    check_belongs,
    left_of_rotation,
    list_owners,
    read_document,
)
from tde.keystore.store.record import KeyOwner
from tde.keystore.store.remedies import bring_key, destroy_again

_REMAINS = "what an interrupted write has left; the next one removes it"
_FOREIGN = "no file of a keystore; tde does not use it"


@dataclass(frozen=True)
class CheckedFile:
    """What was found out about one file.

    Attributes:
        what: what it holds, for people.
        problem: what is wrong with it; empty when nothing is.
        remedy: what to do about that.
        unused: whether nothing reads it, so that it may go.
    """

    file: Path
    what: str
    problem: str = ""
    remedy: str = ""
    unused: bool = False

    @property
    def good(self) -> bool:
        """Whether nothing is wrong with it."""
        return not self.problem


def verify_keystore(path: Path, keystore: Keystore | None) -> list[CheckedFile]:
    """Check every file of a keystore, apart from those that others keep there.

    Args:
        path: its directory.
        keystore: opened with the passphrase, which proves that keystore.json is authentic. What
            does not open can be checked for its form only.

    Raises:
        KeystoreError: the directory itself cannot be used, or the keystore was closed.
    """
    path = path.resolve()
    return [
        _check_document(path, keystore),
        *_check_records(path, keystore),
        *_check_auto_open(path, keystore),
        *_check_envelopes(path, keystore),
        *_check_lock(path),
        *_check_log(path, keystore),
        *(_check_rotation(path, file) for file in left_of_rotation(path)),
        *(_check_destruction(path, file) for file in being_destroyed(path)),
        *(CheckedFile(file, _REMAINS, unused=True) for file in remains(path)),
        *(CheckedFile(file, _FOREIGN, unused=True) for file in foreign_files(path)),
    ]


def _check_document(path: Path, keystore: Keystore | None) -> CheckedFile:
    file, what = document_path(path), "the wrapped master key"
    try:
        header = read_document(path).header
    except KeystoreError as error:
        return CheckedFile(file, what, str(error), error.remedy)
    if keystore is not None and (header.uuid, header.master_key_id) != (
        keystore.uuid,
        keystore.master_key_id,
    ):
        return CheckedFile(
            file, what, f"{file} was replaced meanwhile", "Repeat the command, then look again."
        )
    return CheckedFile(file, what)


def _check_rotation(path: Path, file: Path) -> CheckedFile:
    return CheckedFile(
        file,
        "what a rotation of the master key needs",
        f"{file} is there because a rotation runs, or was interrupted",
        f"Finish it: tde keystore rotate --keystore {path}. It removes nothing that is needed.",
    )


def _check_destruction(path: Path, file: Path) -> CheckedFile:
    name = file.name.split(".key")[0]
    return CheckedFile(
        file,
        "a key that is being destroyed",
        f"{file} is there because the destruction of a key was interrupted",
        f"Finish it: tde keystore destroy {name} --keystore {path}",
    )


def _check_records(path: Path, keystore: Keystore | None) -> Iterator[CheckedFile]:
    if keystore is None:
        yield from _check_forms(path)
        return
    keys = list_keys(keystore)
    yield from (
        CheckedFile(record_path(path, key.owner), f"key of {key.owner}", key.problem, key.remedy)
        for key in keys
    )
    present = {key.owner: key.algorithm is not None for key in keys}
    yield from _check_completeness(path, present)


def _check_forms(path: Path) -> Iterator[CheckedFile]:
    owners = list_owners(path)
    reader = RecordReader(path)
    identity = None
    present = dict.fromkeys(owners, False)
    for owner in owners:
        file, what = record_path(path, owner), f"key of {owner}"
        try:
            record = reader.read(owner)
            # Without keystore.json the first record says whose keystore this is.
            identity = identity or record.header.keystore
            check_belongs(record, path, owner, identity)
            present[owner] = record.header.algorithm is not None
        except KeystoreError as error:
            yield CheckedFile(file, what, str(error), error.remedy)
        else:
            yield CheckedFile(file, f"{what}, of which only the form could be checked")
    yield from _check_completeness(path, present)


def _check_completeness(path: Path, present: Mapping[KeyOwner, bool]) -> Iterator[CheckedFile]:
    for owner in missing_keys(path, present):
        file = record_path(path, owner)
        problem = f"{file} is missing, and the cluster needs it"
        yield CheckedFile(file, f"key of {owner}", problem, bring_key(path))


def _check_auto_open(path: Path, keystore: Keystore | None) -> Iterator[CheckedFile]:
    file, what = auto_open_path(path), "opens the keystore without its passphrase"
    if not file.is_symlink() and not file.exists():
        return
    try:
        document = read_document(path)
    except KeystoreError:
        yield CheckedFile(
            file,
            what,
            f"{file} cannot be checked without keystore.json",
            "Restore keystore.json first.",
        )
        return
    try:
        with AutoOpenProvider().unwrap_master_key(path, document) as found:
            if keystore is not None and not keystore.has_master_key(found):
                raise KeystoreDamagedError(
                    f"{file} holds another master key",
                    remedy=f"Make it again: tde keystore auto-open enable --keystore {path}",
                )
    except KeystoreError as error:
        yield CheckedFile(file, what, str(error), error.remedy)
    else:
        yield CheckedFile(file, what)


def _check_envelopes(path: Path, keystore: Keystore | None) -> Iterator[CheckedFile]:
    """Look at envelopes; that they open, only their providers can prove."""
    try:
        providers = list_providers(path)
    except KeystoreError as error:
        if _check_document(path, None).good:  # What is wrong with that is told by itself.
            yield CheckedFile(unlock_path(path), "of providers", str(error), error.remedy)
        return
    for one in providers:
        what = f"of provider {one.name}"
        if not one.is_current:
            what = "an envelope of another master key; the next rotation removes it"
            yield CheckedFile(one.file, what, unused=True)
            continue
        try:
            if keystore is not None and one.envelope is not None:
                require_own(keystore, one.envelope)
        except KeystoreError as error:
            yield CheckedFile(one.file, what, str(error), error.remedy)
        else:
            yield CheckedFile(one.file, what, one.problem, one.remedy)


def _check_log(path: Path, keystore: Keystore | None) -> Iterator[CheckedFile]:
    file, what = log_path(path), "who has opened and changed the keystore"
    if not os.path.lexists(file):
        return
    try:
        log = read_key_log(path, None if keystore is None else keystore.log_author())
    except KeystoreError as error:
        yield CheckedFile(file, what, str(error), error.remedy)
        return
    remedy = "The keys are not concerned. See tde keystore log, and compare it with syslog."
    problem = log.problems[0] if log.problems else _of_untold_keys(path, log)
    yield CheckedFile(file, what, problem, remedy) if problem else CheckedFile(file, what)
    gone = events.finished_destructions(log.counting)
    for owner in list_owners(path) if gone else ():
        if (entry := gone.get(owner.file_name)) is not None:
            yield CheckedFile(
                record_path(path, owner),
                "a key that was destroyed",
                put_back_problem(owner, entry.number),
                destroy_again(path, owner.file_name.removesuffix(".key")),
            )


def _of_untold_keys(path: Path, log: KeyLog) -> str:
    """Return what is wrong with a log that does not tell of keys that are there; empty if nothing.

    A log that was cut off at its end, or replaced by an older copy, has good codes and a good
    chain. What it then lacks is seen only where there are keys that it does not know.
    """
    if not log.begins_with_the_keystore:
        return ""
    told: set[str] = set()
    for entry in log.counting:
        if entry.event == events.CREATE:
            told.add(str(entry.details.get("key")))
        elif entry.event == events.ADD:
            told.update(events.names_of(entry))
    untold = [owner.file_name for owner in list_owners(path) if owner.file_name not in told]
    if not untold:
        return ""
    more = f" and {len(untold) - 1} others" if untold[1:] else ""
    return (
        f"{log.path} does not tell of keys/{untold[0]}{more}: it was cut off or replaced by an "
        "older copy, so age limits and marks may be missing as well, or the file was not brought "
        "by tde"
    )


def _check_lock(path: Path) -> Iterator[CheckedFile]:
    file = path / LOCK_NAME
    try:
        status = file.lstat()
    except FileNotFoundError:
        return
    problem = "" if S_ISREG(status.st_mode) and status.st_size == 0 else f"{file} is not empty"
    yield CheckedFile(file, "taken by whoever writes", problem, f"rm {file}" if problem else "")
