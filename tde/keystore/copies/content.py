"""The files of a keystore at one moment, read and compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tde.errors import KeystoreError, KeystoreExistsError, KeystoreMissingError
from tde.keystore.completeness import missing_keys
from tde.keystore.log.entry import LONGEST_LOG
from tde.keystore.store.contents import companions, current_envelopes, foreign_files
from tde.keystore.store.document import KeystoreHeader
from tde.keystore.store.files import read_private_file
from tde.keystore.store.layout import (
    AUTO_OPEN_NAME,
    LOG_NAME,
    LONGEST_FILE,
    document_path,
    keys_path,
    record_path,
)
from tde.keystore.store.reading import (
    RecordReader,
    another_master_key,
    check_belongs,
    list_owners,
    read_document,
    require_no_rotation,
)
from tde.keystore.store.record import KeyOwner, parse_record

_MOST_NAMED = 5


@dataclass(frozen=True)
class KeystoreContent:
    """The files of a keystore at one moment.

    Attributes:
        others: by name, what lies beside the records and keystore.json.
        left_out: what is no file of a keystore.
    """

    path: Path
    header: KeystoreHeader
    document: bytes
    records: Mapping[KeyOwner, bytes]
    others: Mapping[str, bytes]
    left_out: list[Path]

    @property
    def providers(self) -> list[str]:
        """The names of the providers that open it."""
        return [Path(name).name.partition(".")[0] for name in self.others if "/" in name]

    def missing_keys(self) -> list[KeyOwner]:
        """Return whose keys its cluster needs and it has not."""
        present = {
            owner: parse_record(data, owner.file_name).header.algorithm is not None
            for owner, data in self.records.items()
        }
        return missing_keys(self.path, present)


def read_content(path: Path, with_auto_open: bool) -> KeystoreContent:
    """Read all files of a keystore and check their form."""
    require_no_rotation(path)
    header = read_document(path).header
    owners = list_owners(path)
    reader = RecordReader(path)
    records = {}
    for owner in owners:
        records[owner] = reader.read_bytes(owner)
        record = parse_record(records[owner], str(record_path(path, owner)))
        check_belongs(record, path, owner, header.uuid)
        if record.header.master_key_id != header.master_key_id:
            raise another_master_key(path, owner)
    others = [*companions(path), *(file for file in [path / LOG_NAME] if file.exists())]
    others += current_envelopes(path, header.master_key_id)
    if with_auto_open and (path / AUTO_OPEN_NAME).exists():
        others.append(path / AUTO_OPEN_NAME)
    return KeystoreContent(
        path,
        header,
        read_private_file(document_path(path), LONGEST_FILE),
        records,
        {str(file.relative_to(path)): read_private_file(file, _limit(file)) for file in others},
        foreign_files(path),
    )


def require_apart(source: Path, destination: Path) -> None:
    """Refuse two directories of which one is inside the other.

    Raises:
        KeystoreError: they are, or are the same.
    """
    if source.is_relative_to(destination) or destination.is_relative_to(source):
        raise KeystoreError(
            f"{source} and {destination} are the same directory, or one is inside the other",
            remedy="Choose a place outside the keystore, best on another disk.",
        )


def require_equal(directory: Path, content: KeystoreContent, present: set[KeyOwner]) -> None:
    """Refuse to mix copies of which one key differs: one of the two protects data."""
    reader = RecordReader(directory)
    both = [owner for owner in content.records if owner in present]
    differ = [owner for owner in both if reader.read_bytes(owner) != content.records[owner]]
    if not differ:
        return
    names = ", ".join(owner.file_name for owner in differ[:_MOST_NAMED])
    raise KeystoreExistsError(
        f"{keys_path(directory)} and {keys_path(content.path)} have different keys for "
        f"{', '.join(map(str, differ[:_MOST_NAMED]))}: {names}",
        remedy="Nothing was changed, because either may protect data. `tde keystore verify` says "
        "whether one is damaged: move that file away, and repeat the command.",
    )


def compare(files: Mapping[Path, bytes]) -> None:
    """Read back what was written.

    Raises:
        KeystoreError: it is not the same.
    """
    for file, data in files.items():
        try:
            same = read_private_file(file, _limit(file)) == data
        except FileNotFoundError as error:
            raise KeystoreMissingError(f"{file} has disappeared after it was written") from error
        if not same:
            raise KeystoreError(
                f"{file} does not read back as it was written",
                remedy="This copy is of no use: remove it, and check the disk.",
            )


def _limit(file: Path) -> int:
    return LONGEST_LOG if file.name == LOG_NAME else LONGEST_FILE
