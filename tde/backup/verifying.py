"""Is a backup what it was when it was taken, and are its keys at hand?

The seal proves the manifest, the WAL and the archives; the manifest tells what each other file was.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tde.backup import backrest_verifying
from tde.backup.backrest import BACKREST
from tde.backup.reading import Reader, unusual
from tde.backup.seal import LABEL, Seal, read_seal, read_unproven, seal_path
from tde.backup.taking import MANIFEST, PLAIN, unlisted_files
from tde.errors import BackupError, ClusterKeystoreError

if TYPE_CHECKING:
    from tde.keystore import Keystore


@dataclass(frozen=True)
class BackupCheck:
    """What was found.

    Attributes:
        seal: what the backup was.
        problems: what is not so any more, in words; none where all is well.
        missing_keys: files of keys that the keystore lacks.
        not_compared: what could not be read here, in words.
        files: how many were compared.
        bytes: of these.
    """

    seal: Seal
    problems: tuple[str, ...]
    missing_keys: tuple[str, ...]
    not_compared: tuple[str, ...]
    files: int
    bytes: int

    @property
    def is_good(self) -> bool:
        """Whether it can be restored with this keystore, and is what was taken."""
        return not (self.problems or self.missing_keys or self.not_compared)

    def as_json(self) -> dict[str, Any]:
        """Return the document that ``--json`` prints."""
        return {**asdict(self), "is_good": self.is_good}


def verify_backup(
    backup: Path,
    keystore: Keystore,
    *,
    seal: Path | None = None,
    taken_after: datetime | None = None,
    tell: Callable[[int], None] = lambda _: None,
) -> BackupCheck:
    """Compare every file of a backup with what was sealed.

    Args:
        backup: its directory; the repository, where pgBackRest took it.
        keystore: open.
        seal: where the seal is; beside the backup when ``None``.
        taken_after: an older one is a problem: an old backup has a good seal, too.
        tell: is told of the bytes that were read since it was told last.

    Raises:
        BackupError: there is no seal, or it was altered.
        ClusterKeystoreError: it is of another keystore.
        OSError: the backup cannot be read.
    """
    from tde.keystore.store.reading import list_owners

    path = seal or seal_path(backup)
    require_keystore_of(path, keystore.uuid.hex)
    found = read_seal(path, keystore.authentication_key(LABEL))
    reader = Reader(tell)
    if found.form == BACKREST:
        backrest_verifying.require_repository(backup)
    not_compared: list[str] = []
    problems = list(sealed_problems(backup, found, reader))
    if not problems and found.form == PLAIN:
        problems += manifest_problems(backup, reader)
    elif not problems and found.form == BACKREST:
        problems += backrest_verifying.backup_problems(backup, found, reader, not_compared)
    if taken_after is not None and datetime.fromisoformat(found.ended) < taken_after:
        problems.append(f"it was taken until {found.ended}, and a newer one was expected")
    present = {owner.file_name for owner in list_owners(keystore.path)}
    return BackupCheck(
        seal=found,
        problems=tuple(problems),
        missing_keys=tuple(name for name in found.keys if name not in present),
        not_compared=tuple(not_compared),
        files=reader.files,
        bytes=reader.bytes,
    )


def require_keystore_of(seal: Path, keystore_uuid: str) -> None:
    """Check, before a passphrase is typed, that a keystore is the one of a backup.

    Raises:
        BackupError: there is no seal, or it cannot be read.
        ClusterKeystoreError: it is another one.
    """
    wanted = read_unproven(seal).get("keystore_uuid")
    if wanted != keystore_uuid:
        raise ClusterKeystoreError(
            f"the backup needs a copy of the keystore {wanted}, and this is {keystore_uuid}",
            remedy="Name that keystore with --keystore.",
        )


def sealed_problems(backup: Path, seal: Seal, reader: Reader) -> Iterator[str]:
    """Yield what is wrong with the files that a seal tells of."""
    if seal.form == BACKREST:
        present = set(backrest_verifying.twins(backup, seal))
    else:
        present = {str(path.relative_to(backup)) for path in unlisted_files(backup, seal.form)}
    for name, code in seal.files.items():
        if (why := unusual(backup, name)) is not None:
            yield f"{name} {why}"
        elif reader.hash(backup / name) != code:
            yield f"{name} was altered"
    for name in sorted(present - set(seal.files)):
        yield f"{name} was added"


def manifest_problems(backup: Path, reader: Reader) -> Iterator[str]:
    """Yield what is wrong with the files of a plain backup, whose manifest is proven."""
    listed = set()
    for file in json.loads((backup / MANIFEST).read_bytes())["Files"]:
        name = _name_of(file)
        listed.add(name)
        path = backup / name
        if (why := unusual(backup, name)) is not None:
            yield f"{name} {why}"
        elif path.stat().st_size != file["Size"]:
            yield f"{name} has {path.stat().st_size} bytes instead of {file['Size']}"
        elif reader.hash(path) != file["Checksum"]:
            yield f"{name} was altered"
    for name in _names_in(backup):
        if name not in listed and name != MANIFEST:
            yield f"{name} was added"


def _name_of(file: dict[str, Any]) -> str:
    """Return a path of a manifest; one that is no UTF-8 stands there in hexadecimal."""
    if "Encoded-Path" in file:
        name = os.fsdecode(bytes.fromhex(file["Encoded-Path"]))
    else:
        name = str(file["Path"])
    if file.get("Checksum-Algorithm") != "SHA256":
        raise BackupError(f"the manifest has no SHA-256 of {name}")
    return name


def _names_in(backup: Path) -> Iterator[str]:
    """Yield what lies in a data directory and in its tablespaces, but for directories and WAL."""
    roots = [backup]
    tablespaces = backup / "pg_tblspc"
    if tablespaces.is_dir():
        roots += [path for path in sorted(tablespaces.iterdir()) if path.is_symlink()]
    for root in roots:
        # A link that was named here is followed, and none below it.
        for directory, subdirectories, files in os.walk(root):
            at = Path(directory)
            if at == backup and "pg_wal" in subdirectories:
                subdirectories.remove("pg_wal")
            links = [name for name in subdirectories if (at / name).is_symlink()]
            for name in [*files, *links]:
                if (at / name) not in roots:
                    yield str((at / name).relative_to(backup))
