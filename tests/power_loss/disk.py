"""What a disk may hold after a power cut: a model that is fed the journal of the recorder.

Two things are lost apart from each other. *Data*: each sector of an un-synced write has reached the
disk or not. *Names*: creating, renaming, linking and removing is remembered in order, and only
a beginning of that order survives. How a sync makes names durable is a choice, :class:`Names`.
docs/power-loss.md says what is modelled and what is not.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from random import Random

from tests.power_loss.journal import NO_CHANGE, Record


class Names(str, Enum):
    """When the name of a file is durable."""

    JOURNAL = "journal"
    """One order for the whole disk. fsync, and fdatasync of a file that is new or has grown, keep
    all that was done before (ext4, XFS). Any other fdatasync keeps no name."""
    DIRECTORIES = "directories"
    """An order for each directory. The same syncs keep the file's own directory and those above
    it, up to the root; other directories may lose what nobody has synced (btrfs, POSIX)."""


@dataclass(eq=False)
class File:
    """A file: what is on the disk for certain, and the changes that may be."""

    durable: bytearray = field(default_factory=bytearray)
    pending: list[Change] = field(default_factory=list)
    mode: int = 0o600
    owner: tuple[int, int] = (0, 0)
    length: int = 0
    """With everything that was written to it."""
    grown: bool = False
    """Since it was synced: an fdatasync must then keep its length, and names with it."""

    def grow(self, length: int) -> None:
        if length > self.length:
            self.length, self.grown = length, True

    def sync(self) -> None:
        for change in self.pending:
            change.apply(self.durable)
        self.pending.clear()
        self.grown = False


@dataclass(eq=False)
class Directory:
    mode: int
    owner: tuple[int, int]


@dataclass(eq=False)
class Link:
    target: str
    owner: tuple[int, int]


Entry = File | Directory | Link


@dataclass(frozen=True)
class Change:
    """Un-synced: bytes at an offset, or a length that a file was cut or extended to."""

    offset: int
    data: bytes = b""
    is_length: bool = False
    """The file ends at ``offset`` from here on."""
    only_grows: bool = False

    def apply(self, to: bytearray) -> None:
        if not self.is_length:
            _put(to, self.offset, self.data)
        elif len(to) < self.offset:
            to.extend(bytes(self.offset - len(to)))
        elif not self.only_grows:
            del to[self.offset :]

    def pieces(self, sector: int) -> Iterator[tuple[int, bytes]]:
        """Yield what of the bytes lies in each sector."""
        start, end = self.offset, self.offset + len(self.data)
        while start < end:
            stop = min((start // sector + 1) * sector, end)
            yield start, self.data[start - self.offset : stop - self.offset]
            start = stop


@dataclass(frozen=True)
class NameChange:
    """Un-synced: what happened to a name. ``order`` counts over the whole disk."""

    order: int
    what: str
    path: str
    entry: Entry | None = None
    second: str = ""


@dataclass(frozen=True)
class Crash:
    """How one crash state came out, for the report."""

    sector: int
    sectors_lost: int
    names_lost: int


class Disk:
    """The state of a disk while a journal is read; :meth:`crash` writes down what may be left."""

    def __init__(self, base: Path, names: Names = Names.JOURNAL) -> None:
        self._names_rule = names
        self._names: dict[str, Entry] = dict(_read_tree(base))
        self._now = dict(self._names)
        self._pending: dict[str, list[NameChange]] = {}
        self._new: set[int] = set()
        """Files whose creation is not durable yet, by their id()."""
        self._files: dict[int, File] = {}
        self._order = 0
        self.notes: list[bytes] = []

    def feed(self, record: Record) -> None:
        """Take the next record of the journal."""
        self._order += 1
        if record.what in "kcwWtafD":
            self._feed_file(record)
        elif record.what == "F":
            self._keep_names(record.path or "/", is_directory=True)
        elif record.what == "N":
            self.notes.append(record.data)
        else:
            self._feed_name(record)

    def _feed_file(self, record: Record) -> None:
        if record.what == "k":
            known = self._now.get(record.path)
            assert isinstance(known, File), f"{record.path} was not there before the recording"
            self._files[record.file] = known
            return
        if record.what == "c":
            file = File(mode=record.b, owner=record.owner)
            self._files[record.file] = file
            self._new.add(id(file))
            self._name(NameChange(self._order, "c", record.path, file))
            return
        file = self._files[record.file]
        if record.what in "wW":
            file.pending.append(Change(record.a, record.data))
            file.grow(record.a + len(record.data))
            if record.what == "W":
                self._sync(file, record.path, only_data=True)
        elif record.what == "t":
            file.pending.append(Change(record.a, is_length=True))
            file.length, file.grown = record.a, True
        elif record.what == "a":
            file.pending.append(Change(record.a + record.b, is_length=True, only_grows=True))
            file.grow(record.a + record.b)
        else:
            self._sync(file, record.path, only_data=record.what == "D")

    def _feed_name(self, record: Record) -> None:
        entry: Entry | None = None
        if record.what == "m":
            entry = Directory(record.b, record.owner)
        elif record.what == "s":
            entry = Link(record.second, record.owner)
        elif record.what == "p":
            found = self._now.get(record.path)
            if isinstance(found, File | Directory):
                found.mode = record.a  # Rights are no data: a cut between two is not modelled.
            return
        elif record.what == "o":
            found = self._now.get(record.path)
            if found is not None:
                found.owner = _changed_owner(found.owner, record.owner)
            return
        self._name(NameChange(self._order, record.what, record.path, entry, record.second))

    def _name(self, change: NameChange) -> None:
        # A rename belongs to where it leads: there it must not be seen before what came earlier.
        where = _parent(change.second if change.what in "rl" else change.path)
        key = where if self._names_rule is Names.DIRECTORIES else ""
        _apply_name(self._now, change)
        self._pending.setdefault(key, []).append(change)

    def _sync(self, file: File, path: str, *, only_data: bool) -> None:
        if not only_data or file.grown or id(file) in self._new:
            self._keep_names(path)
        file.sync()

    def _keep_names(self, path: str, *, is_directory: bool = False) -> None:
        if self._names_rule is Names.JOURNAL:
            kept = self._pending.pop("", [])
        else:
            kept, at = [], path if is_directory else _parent(path)
            while True:
                kept += self._pending.pop(at, [])
                if at == "/":
                    break
                at = _parent(at)
        for change in sorted(kept, key=lambda change: change.order):
            _apply_name(self._names, change)
            self._new.discard(id(change.entry))

    def sync_all(self) -> None:
        """Make everything durable, as ``sync`` does."""
        self._pending.clear()
        self._new.clear()
        self._names = dict(self._now)
        for entry in self._names.values():
            if isinstance(entry, File):
                entry.sync()

    def crash(self, random: Random, sector: int, target: Path) -> Crash:
        """Write into the empty directory ``target`` what a power cut may leave at this moment."""
        names, lost_names = dict(self._names), 0
        kept: list[NameChange] = []
        for _, changes in sorted(self._pending.items()):
            count = random.choice((0, len(changes), *(random.randint(0, len(changes)),) * 2))
            kept += changes[:count]
            lost_names += len(changes) - count
        for change in sorted(kept, key=lambda change: change.order):
            _apply_name(names, change)
        written: dict[int, Path] = {}
        lost_sectors = 0
        # Most cuts come when nearly everything or nearly nothing was written back.
        share = random.choice((0.0, 0.5, 0.5, 0.9, 1.0))
        for path in sorted(names):
            if path == "/" or not isinstance(names.get(_parent(path)), Directory):
                continue  # Its directory was lost, and the file with it.
            entry, place = names[path], target / path[1:]
            if isinstance(entry, Link):
                place.symlink_to(entry.target)
                _give(place, entry.owner)
            elif isinstance(entry, Directory):
                place.mkdir(mode=0o700)
                _give(place, entry.owner)
                place.chmod(entry.mode)
            elif id(entry) in written:
                os.link(written[id(entry)], place)
            else:
                data, lost = _after_cut(entry, random, share, sector)
                lost_sectors += lost
                place.write_bytes(data)
                _give(place, entry.owner)
                place.chmod(entry.mode)
                written[id(entry)] = place
        return Crash(sector, lost_sectors, lost_names)


def _after_cut(file: File, random: Random, share: float, sector: int) -> tuple[bytearray, int]:
    """Return what is left of a file, and how many sectors of un-synced writes are not."""
    if not file.pending:
        return file.durable, 0
    data, lost = bytearray(file.durable), 0
    for change in file.pending:
        if change.is_length:
            if random.random() < share:
                change.apply(data)
            continue
        for offset, piece in change.pieces(sector):
            if random.random() < share:
                _put(data, offset, piece)
            else:
                lost += 1
    return data, lost


def _put(data: bytearray, offset: int, piece: bytes) -> None:
    if len(data) < offset:
        data.extend(bytes(offset - len(data)))
    data[offset : offset + len(piece)] = piece


def _parent(path: str) -> str:
    return path.rpartition("/")[0] or "/"


def _apply_name(names: dict[str, Entry], change: NameChange) -> None:
    """Do to the names what happened; what lacks its source was lost before, and does nothing."""
    if change.entry is not None:
        names[change.path] = change.entry
    elif change.what in "ud":
        names.pop(change.path, None)
    elif change.what == "l":
        if change.path in names:
            names[change.second] = names[change.path]
    elif change.path in names:
        entry = names.pop(change.path)
        names[change.second] = entry
        if isinstance(entry, Directory):
            below = change.path + "/"
            for path in [path for path in names if path.startswith(below)]:
                names[change.second + "/" + path[len(below) :]] = names.pop(path)


def _changed_owner(before: tuple[int, int], after: tuple[int, int]) -> tuple[int, int]:
    uid, gid = (new if new != NO_CHANGE else old for old, new in zip(before, after, strict=True))
    return uid, gid


def _give(path: Path, owner: tuple[int, int]) -> None:
    if os.geteuid() == 0:
        os.lchown(path, *owner)


def _read_tree(base: Path) -> Iterator[tuple[str, Entry]]:
    """Yield everything below a directory, as durable."""
    for path in [base, *sorted(base.rglob("*"))]:
        name = "/" + str(path.relative_to(base)) if path != base else "/"
        status = path.lstat()
        owner = (status.st_uid, status.st_gid)
        if stat.S_ISLNK(status.st_mode):
            yield name, Link(str(path.readlink()), owner)
        elif stat.S_ISDIR(status.st_mode):
            yield name, Directory(stat.S_IMODE(status.st_mode), owner)
        elif stat.S_ISREG(status.st_mode):
            data = bytearray(path.read_bytes())
            mode = stat.S_IMODE(status.st_mode)
            yield name, File(data, mode=mode, owner=owner, length=len(data))
