"""``tde pg backup --to pgbackrest``: what pgBackRest takes is sealed, and alterations are found."""

from __future__ import annotations

import json
import shutil
import zlib
from pathlib import Path
from typing import Any

import pytest

from tests.postgres.canaries import CANARY, files_with
from tests.tools.test_pgbackrest import EVERYTHING, FILL, TEXT, Stanza, rows_after_recovery, started


@pytest.fixture
def stanza(site):
    return started(site)


@pytest.fixture
def sealed(stanza: Stanza, tde_command):
    return Sealed(stanza, tde_command)


class Sealed:
    """What a DBA types."""

    def __init__(self, stanza: Stanza, command: Any) -> None:
        self.stanza = stanza
        self.seals = stanza.site.directory / "seals"
        self._command = command

    def take(self, *options: object, exit_code: int = 0) -> Any:
        site = self.stanza.site
        return self._command(
            *("pg", "backup", self.seals, "-D", site.directory / "data", "--to", "pgbackrest"),
            *("-k", site.keystore.path, "--bindir", site.stock.bindir, "--passphrase-fd", "0"),
            *options,
            exit_code=exit_code,
        )

    def verify(self, label: str, *options: object, exit_code: int = 0) -> Any:
        shown = self._command(
            *("pg", "verify-backup", self.stanza.repository, "--seal", self.seal(label), "--json"),
            *("-k", self.stanza.site.keystore.path, "--passphrase-fd", "0"),
            *options,
            exit_code=exit_code,
        )
        return json.loads(shown.stdout)

    def seal(self, label: str) -> Path:
        return self.seals / f"main-{label}.seal.json"


def altered(path: Path) -> str:
    """Alter a byte in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return path.name


def test_what_pgbackrest_takes_is_sealed(sealed: Sealed) -> None:
    stanza = sealed.stanza
    shown = sealed.take("--type", "full").stdout
    full = stanza.newest()
    assert f"as {full} of the stanza main" in shown
    assert "backup command end: completed successfully" in shown
    found = sealed.verify(full)
    assert found["is_good"]
    assert found["seal"]["form"] == "pgbackrest"
    assert found["files"] > 700
    names = set(found["seal"]["files"])
    assert f"backup/main/{full}/backup.manifest" in names
    assert any(name.startswith("archive/main/") for name in names)

    stanza.site.sql(FILL.format(text=TEXT, first=5001, last=5100))
    sealed.take("--type", "incr")
    incremental = stanza.newest()
    assert sealed.verify(incremental)["seal"]["is_incremental"]
    assert [path.name for path in sorted(sealed.seals.iterdir())] == [
        f"main-{label}.seal.json" for label in sorted((full, incremental))
    ]
    assert files_with(CANARY, stanza.repository, sealed.seals) == []

    # A file of the full backup, of which the incremental one makes use.
    name = altered(next((stanza.repository / "backup/main" / full).glob("pg_data/base/1/1259.gz")))
    for label in (full, incremental):
        problems = sealed.verify(label, exit_code=1)["problems"]
        assert problems == [f"backup/main/{full}/pg_data/base/1/{name} was altered"]


@pytest.mark.slow
def test_what_a_hostile_administrator_alters_is_found(sealed: Sealed) -> None:
    stanza = sealed.stanza
    repository = stanza.repository
    sealed.take("--type", "full")
    label = stanza.newest()
    backup = repository / "backup/main" / label
    saved = repository.with_name("saved")
    shutil.copytree(repository, saved, symlinks=True)

    def problems() -> list[str]:
        found: list[str] = sealed.verify(label, exit_code=1)["problems"]
        shutil.rmtree(repository)
        shutil.copytree(saved, repository, symlinks=True)
        return found

    # A list that was made anew, for a file that was replaced: pgBackRest itself is content.
    manifest = backup / "backup.manifest"
    manifest.write_text(manifest.read_text().replace('"size":3', '"size":4', 1))
    assert problems() == [f"backup/main/{label}/backup.manifest was altered"]
    (segment, *_) = sorted(repository.glob("archive/main/*/*/0*-*.gz"))[-1:]
    altered(segment)
    assert problems() == [f"{segment.relative_to(repository)} was altered"]
    twin = segment.with_name(f"{segment.name[:24]}-{'0' * 40}.gz")
    shutil.copyfile(segment, twin)
    assert problems() == [f"{twin.relative_to(repository)} was added"]
    segment.unlink()
    assert problems() == [f"{segment.relative_to(repository)} is missing"]
    relation = next(backup.glob("pg_data/base/1/1259.gz"))
    relation.write_bytes(b"")
    assert problems() == [f"{relation.relative_to(repository)} was altered"]
    relation.unlink()
    assert problems() == [f"{relation.relative_to(repository)} is missing"]
    shutil.move(relation, repository.with_name("elsewhere"))
    relation.symlink_to(repository.with_name("elsewhere"))
    (problem,) = problems()
    assert "is reached by a link" in problem
    # Another backup's good seal.
    assert sealed.verify(label, "--taken-after", "2099-01-01T00:00:00", exit_code=1)["problems"]
    assert sealed.verify(label)["is_good"]


@pytest.mark.slow
@pytest.mark.parametrize("options", [("compress-type=zst", "repo1-bundle=y"), ("archive-async=y",)])
def test_bundles_and_restores(site, tde_command, options) -> None:
    sealed = Sealed(started(site, *options), tde_command)
    stanza = sealed.stanza
    sealed.take("--type", "full")
    site.sql(FILL.format(text=TEXT, first=5001, last=6000))
    expected = site.sql(EVERYTHING)
    sealed.take("--type", "diff")
    label = stanza.newest()
    assert sealed.verify(label)["is_good"]
    site.stop(site.directory / "data")
    restored = stanza.restore(
        "restored", f"--set={label}", "--type=immediate", "--target-action=promote"
    )
    assert rows_after_recovery(site, restored) == expected
    refused = tde_command(
        *("pg", "restore", _moved(sealed, label), "-D", site.directory / "new"),
        *("-k", site.keystore.path, "--passphrase-fd", "0"),
        exit_code=1,
    )
    assert "pgBackRest restores what it has taken itself" in refused.stderr


def _moved(sealed: Sealed, label: str) -> Path:
    """Put a seal where that of a directory would be."""
    directory = sealed.stanza.repository / "backup/main" / label
    shutil.copyfile(sealed.seal(label), directory.with_name(f"{label}.seal.json"))
    return directory


@pytest.mark.slow
def test_what_pgbackrest_encrypts_once_more_is_said_to_be_unread(site, tde_command) -> None:
    options = ("repo1-cipher-type=aes-256-cbc", "repo1-cipher-pass=sesame open")
    sealed = Sealed(started(site, *options), tde_command)
    sealed.take("--type", "full")
    (problem,) = sealed.verify(sealed.stanza.newest(), exit_code=1)["problems"]
    assert "is encrypted by pgBackRest" in problem


@pytest.mark.slow
def test_what_is_not_ready_is_refused_with_what_to_do(sealed: Sealed, tde_command) -> None:
    stanza = sealed.stanza
    site = stanza.site
    refused = sealed.take("--stanza", "other", exit_code=1).stderr
    assert "pgBackRest knows no stanza other" in refused
    assert "stanza-create" in refused
    lines = stanza.configuration.read_text()
    stanza.configuration.write_text(lines.replace("checksum-page=n\n", ""))
    refused = sealed.take(exit_code=1).stderr
    assert "checksum-page=n is missing" in refused
    remedy = f"tde pg install-bin --for pgbackrest --write {stanza.configuration}"
    assert remedy in " ".join(refused.split())
    tde_command(*remedy.split()[1:])
    assert sealed.take("--format", "tar", exit_code=2).stderr
    # One that fails leaves no seal, not even half of one.
    held = stanza.repository / "backup/main/backup.info"
    for name in ("backup.info", "backup.info.copy"):
        held.with_name(name).write_bytes(zlib.compress(b"damage"))
    assert sealed.take(exit_code=1).stderr
    assert not sealed.seals.exists() or not list(sealed.seals.iterdir())
    site.sql("SELECT 1")
