"""The journal of the recorder says all that happened, in order, and is enough to do it again."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from tde.keystore import Keystore
from tde.ownership import adopt_directory, create_directory, create_parents
from tests.keystore.cheap_passphrase import CHEAP_KDF, PASSPHRASE
from tests.power_loss.disk import Disk, Names
from tests.power_loss.journal import read_journal
from tests.power_loss.recording import NOTES, Mounted, recording


def content(root: Path) -> dict[str, object]:
    """Return what is below a directory: contents, targets of links, modes."""
    found: dict[str, object] = {}
    for path in root.rglob("*"):
        name = str(path.relative_to(root))
        if name == NOTES:
            continue
        if path.is_symlink():
            found[name] = str(path.readlink())
        elif path.is_dir():
            found[name] = path.stat().st_mode
        else:
            found[name] = (path.stat().st_mode, path.read_bytes())
    return found


class Place:
    """A directory to record in, and the disk that its journal makes."""

    def __init__(self, tmp_path: Path, recorder: Path) -> None:
        self.root = tmp_path / "root"
        self.root.mkdir()
        self._tmp_path = tmp_path
        self._recorder = recorder

    def record(self, act: Callable[[Mounted], None]) -> dict[str, object]:
        """Record something, and return what was there at its end."""
        base, journal = self._tmp_path / "base", self._tmp_path / "journal"
        with recording(self.root, base, journal, self._recorder) as mounted:
            act(mounted)
            return content(self.root)

    def disk(self, names: Names = Names.JOURNAL, *, until: bytes = b"") -> Disk:
        """Return the disk at the end of the journal, or at a note."""
        disk = Disk(self._tmp_path / "base", names)
        for record in read_journal(self._tmp_path / "journal"):
            disk.feed(record)
            if until and record.data == until:
                break
        return disk

    def crash(self, disk: Disk, number: int) -> dict[str, object]:
        target = self._tmp_path / f"state-{number}"
        target.mkdir()
        disk.crash(Random(number), 512, target)
        return content(target)


@pytest.fixture
def place(tmp_path: Path, recorder: Path) -> Place:
    return Place(tmp_path, recorder)


def test_the_journal_makes_the_same_files(place: Place) -> None:
    root = place.root
    (root / "kept").write_bytes(b"k" * 3000)
    (root / "directory").mkdir()

    def act(mounted: Mounted) -> None:
        with (root / "new").open("wb") as file:
            file.write(b"n" * 300_000)
            file.flush()
            os.fsync(file.fileno())
        with (root / "kept").open("r+b") as file:
            file.seek(1000)
            file.write(b"K" * 10)
        os.truncate(root / "kept", 2000)
        (root / "directory/inner").mkdir(mode=0o750)
        (root / "directory/inner/a").write_bytes(b"a")
        (root / "directory").rename(root / "moved")
        (root / "link").symlink_to("moved/inner")
        os.link(root / "new", root / "moved/same")
        (root / "removed").write_bytes(b"r")
        (root / "removed").unlink()
        descriptor = os.open(root / "allocated", os.O_RDWR | os.O_CREAT, 0o600)
        os.posix_fallocate(descriptor, 0, 10_000)
        (root / "allocated").unlink()
        # As a backend goes on with a file that another one has dropped.
        os.write(descriptor, b"x")
        os.fsync(descriptor)
        os.close(descriptor)
        (root / "kept").chmod(0o640)
        (root / "kept").rename(root / "new-name")
        (root / "replaced").write_bytes(b"1")
        (root / "new-name").replace(root / "replaced")
        with (root / "replaced").open("wb") as file:  # O_TRUNC.
            file.write(b"2")

    expected = place.record(act)
    disk = place.disk()
    disk.sync_all()
    assert place.crash(disk, 0) == expected


def test_notes_are_in_the_order_of_what_was_written(place: Place) -> None:
    def act(mounted: Mounted) -> None:
        for n in range(3):
            (place.root / f"f{n}").write_bytes(b"x")
            mounted.notes.write("made", n)

    place.record(act)
    disk = place.disk(until=b'["made", 1]\n')
    disk.sync_all()
    assert disk.notes == [b'["made", 0]\n', b'["made", 1]\n']
    assert set(place.crash(disk, 0)) == {"f0", "f1"}


@pytest.mark.parametrize("names", Names)
@pytest.mark.parametrize("made_before", [False, True])
def test_directories_that_tde_makes_outlive_a_power_cut(
    place: Place, names: Names, made_before: bool
) -> None:
    """CREATE TABLESPACE is durable as soon as its WAL is, and needs its directory from then on."""
    location = place.root / "tablespaces/new"

    def act(mounted: Mounted) -> None:
        if made_before:
            location.parent.mkdir()
            create_directory(location.parent / "other", None)  # Which syncs that parent.
            location.mkdir()  # By somebody who typed mkdir and no sync.
            adopt_directory(location, None)
        else:
            create_parents(location, None)
            create_directory(location, None)
        mounted.notes.write("made")

    place.record(act)
    disk = place.disk(names)
    for number in range(40):
        assert "tablespaces/new" in place.crash(disk, number)


@pytest.mark.parametrize("names", Names)
def test_a_keystore_that_was_reported_opens_after_any_power_cut(
    place: Place, names: Names, tmp_path: Path
) -> None:
    def act(mounted: Mounted) -> None:
        Keystore.create(place.root / "keystore", PASSPHRASE, kdf=CHEAP_KDF).close()
        mounted.notes.write("made")

    place.record(act)
    disk = place.disk(names)
    for number in range(40):
        place.crash(disk, number)
        Keystore.open(tmp_path / f"state-{number}" / "keystore", PASSPHRASE).close()
