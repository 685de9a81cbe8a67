"""``tde pg backup --to pgbackrest``: what pgBackRest takes is sealed, and alterations are found."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tde.audit.backrest import Manifest, read_manifest
from tests.postgres.canaries import CANARY, files_with
from tests.tools.site import Site, wait_for
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

    def newest_label(self) -> str:
        newest = max(self.seals.iterdir(), key=lambda path: path.stat().st_mtime)
        return newest.name.removeprefix("main-").removesuffix(".seal.json")

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


@pytest.fixture
def taken(sealed: Sealed) -> str:
    """A full backup, and a copy of the repository beside it."""
    sealed.take("--type", "full")
    shutil.copytree(
        sealed.stanza.repository, sealed.stanza.repository.with_name("saved"), symlinks=True
    )
    return str(sealed.stanza.newest())


@pytest.mark.slow
def test_what_a_hostile_administrator_alters_is_found(sealed: Sealed, taken: str) -> None:
    stanza, label = sealed.stanza, taken
    repository = stanza.repository
    backup = repository / "backup/main" / label

    def problems() -> list[str]:
        found: list[str] = sealed.verify(label, exit_code=1)["problems"]
        shutil.rmtree(repository)
        shutil.copytree(repository.with_name("saved"), repository, symlinks=True)
        return found

    # A list that was made anew, for a file that was replaced: pgBackRest itself is content.
    manifest = backup / "backup.manifest"
    manifest.write_text(manifest.read_text().replace('"size":3', '"size":4', 1))
    assert problems() == [f"backup/main/{label}/backup.manifest was altered"]
    (segment, *_) = sorted(repository.glob("archive/main/*/*/0*-*.gz"))[-1:]
    altered(segment)
    assert problems() == [f"{segment.relative_to(repository)} was altered"]
    # A second one, beside it or in another archive, which archive.info may name.
    for directory in (segment.parent, repository / "archive/main/15-2" / segment.parent.name):
        directory.mkdir(parents=True, exist_ok=True)
        twin = directory / f"{segment.name[:24]}-{'0' * 40}.gz"
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


def forge(backup: Path, name: str) -> None:
    """Alter a stored file, and make the list of its backup anew, as pgBackRest itself has it."""
    path = backup / f"{name}.gz"
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[100] ^= 1
    path.write_bytes(gzip.compress(bytes(content)))
    manifest = backup / "backup.manifest"
    text = manifest.read_text()
    (line,) = [line for line in text.splitlines() if line.startswith(f"{name}=")]
    entry = json.loads(line.partition("=")[2])
    entry["checksum"] = entry["rck"] = hashlib.sha1(content).hexdigest()
    if "repo-size" in entry:
        entry["repo-size"] = path.stat().st_size
    packed = json.dumps(entry, separators=(",", ":"), sort_keys=True)
    text = text.replace(line, f"{name}={packed}")
    # Its checksum is of everything but itself, as JSON in a certain form.
    (old,) = [line for line in text.splitlines() if line.startswith("backrest-checksum=")]
    text = text.replace(old, f'backrest-checksum="{_checksum(text)}"')
    manifest.write_text(text)
    shutil.copyfile(manifest, manifest.with_name("backup.manifest.copy"))


def give(site: Site, directory: Path) -> None:
    """Give all of it to the user that pgBackRest runs as."""
    if site.os_user is not None:
        for path in (directory, *directory.rglob("*")):
            os.chown(path, site.os_user.uid, site.os_user.gid, follow_symlinks=False)


def _checksum(text: str) -> str:
    sections: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if line.startswith("["):
            sections.append((line[1:-1], []))
        elif line and not line.startswith("backrest-checksum="):
            name, _, value = line.partition("=")
            sections[-1][1].append(f'"{name}":{value}')
    # The last section has nothing but the checksum.
    parts = [f'"{name}":{{{",".join(lines)}}}' for name, lines in sections if lines]
    return hashlib.sha1("{{{}}}".format(",".join(parts)).encode()).hexdigest()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["incr", "full"])
def test_a_forged_earlier_backup_is_not_built_upon(sealed: Sealed, kind: str) -> None:
    """The attack: pgBackRest takes a file for unchanged, and its hash from a list that was forged.

    From the full backup that an incremental one is based on, or from one that was broken off.
    """
    stanza = sealed.stanza
    stanza.site.sql("CHECKPOINT")
    sealed.take("--type", "full")
    full = stanza.repository / "backup/main" / stanza.newest()
    name = "pg_data/base/1/1259"
    # Of a database that nobody uses, so the live file stays as it is.
    true = read_manifest(full)
    assert isinstance(true, Manifest)
    forge(full, name)
    if kind == "full":
        year, rest = full.name[:4], full.name[4:]
        planted = full.with_name(f"{int(year) + 1}{rest}")
        shutil.copytree(full, planted)
        give(stanza.site, planted)
        (planted / "backup.manifest").unlink()
    sealed.take("--type", kind)
    label = stanza.newest() if kind == "incr" else sealed.newest_label()
    made = read_manifest(stanza.repository / "backup/main" / label)
    assert isinstance(made, Manifest)
    assert made.files[name]["checksum"] == true.files[name]["checksum"]
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
    found = sealed.verify(sealed.stanza.newest(), exit_code=1)
    assert found["problems"] == []
    (text,) = found["not_compared"]
    assert "is encrypted by pgBackRest" in text


@pytest.mark.slow
def test_what_is_not_ready_is_refused_with_what_to_do(sealed: Sealed, tde_command) -> None:
    stanza = sealed.stanza
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
    stanza.configuration.write_text(f"{lines}checksum-nonsense=1\n[main:backup]\npg1-port=1\n")
    assert sealed.take(exit_code=1).stderr
    assert not sealed.seals.exists() or not list(sealed.seals.iterdir())
    stanza.configuration.write_text(lines)
    stanza.repository.rename(stanza.repository.with_name("away"))
    assert "pgBackRest knows no stanza main" in sealed.take(exit_code=1).stderr


@pytest.mark.slow
def test_a_name_of_a_stanza_leads_nowhere(sealed: Sealed) -> None:
    """The attack: root would make a file of the server's user where archive_command leads it."""
    site = sealed.stanza.site
    refused = sealed.take("--stanza", "/../../../etc/x", exit_code=1).stderr
    assert "names no usable stanza" in refused
    program = site.directory / "pgbackrest"
    system = site.sql("SELECT system_identifier FROM pg_control_system()")
    answer = {
        "db": [{"id": 1, "repo-key": 1, "system-id": int(system)}],
        "archive": [{"id": "../../x", "database": {"id": 1, "repo-key": 1}}],
        "backup": [
            {
                "label": "/../../../tmp/x",
                "type": "full",
                "database": {"id": 1, "repo-key": 1},
                "archive": {"start": "0" * 24, "stop": "0" * 24},
                "timestamp": {"stop": 1},
            }
        ],
    }
    program.write_text(f"#!/bin/sh\necho '{json.dumps([answer])}'\n")
    program.chmod(0o755)
    where = f"--config={sealed.stanza.configuration} --stanza=main"
    site.sql(f"ALTER SYSTEM SET archive_command = '{program} {where} archive-push %p'")
    site.sql("SELECT pg_reload_conf()")
    wait_for("the setting", lambda: str(program) in site.sql("SHOW archive_command"))
    assert "says something unexpected" in sealed.take(exit_code=1).stderr
    assert not sealed.seals.exists()
