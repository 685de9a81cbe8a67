"""Ways in which a base backup and WAL are stored, made by hand of a plain backup."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import tarfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lz4.frame
import zstandard

from tests.audit.prepared import Prepared

LABEL = "20261128-030000F"
COMPRESS: Mapping[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": lambda data: gzip.compress(data, 1),
    ".bz2": lambda data: bz2.compress(data, 1),
    ".xz": lambda data: lzma.compress(data, preset=0),
    ".lz4": lz4.frame.compress,
    ".zst": zstandard.ZstdCompressor(level=1).compress,
}


def files_of(backup: Path) -> dict[str, bytes]:
    """Return the files of a plain backup, through the links of tablespaces, by their names."""
    found = {}
    for path in sorted(backup.rglob("*")):
        if path.is_file():
            found[str(path.relative_to(backup))] = path.read_bytes()
    for link in (backup / "pg_tblspc").iterdir():
        for path in sorted(link.resolve().rglob("*")):
            if path.is_file():
                name = path.relative_to(link.resolve())
                found[f"pg_tblspc/{link.name}/{name}"] = path.read_bytes()
    return found


def tar_of(files: Mapping[str, bytes]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return made.getvalue()


def store_as_tar(files: Mapping[str, bytes], directory: Path, ending: str = "") -> Path:
    """Store a backup as pg_basebackup does in tar format."""
    directory.mkdir()
    parts: dict[str, dict[str, bytes]] = {"base": {}, "pg_wal": {}}
    for name, content in files.items():
        first, *rest = name.split("/")
        if first == "pg_wal":
            parts["pg_wal"]["/".join(rest)] = content
        elif first == "pg_tblspc":
            parts.setdefault(rest[0], {})["/".join(rest[1:])] = content
        else:
            parts["base"][name] = content
    for part, members in parts.items():
        (directory / f"{part}.tar{ending}").write_bytes(COMPRESS[ending](tar_of(members)))
    return directory


def raw_deflate(data: bytes) -> bytes:
    machine = zlib.compressobj(1, wbits=-zlib.MAX_WBITS)
    return machine.compress(data) + machine.flush()


class Repository:
    """A repository with one backup and the WAL of an archive, as pgBackRest stores them."""

    def __init__(self, copy: Prepared, path: Path, ending: str, *, bundle: str = "") -> None:
        self.path = path
        self.backup = path / "backup/main" / LABEL
        self.major = copy.cluster.binaries.major
        self.archive = path / f"archive/main/{self.major}-1"
        self.ending = ending
        self.compress = COMPRESS[ending]
        self.system = 1
        self.entries: dict[str, dict[str, Any]] = {}
        self.backup.mkdir(parents=True)
        self.archive.mkdir(parents=True)
        for name, content in files_of(copy.backup).items():
            where = name if name.startswith("pg_tblspc/") else f"pg_data/{name}"
            self.add(where, content, bundle=bundle)
        for segment in copy.archive.iterdir():
            if len(segment.name) == 24:
                self.push(segment.name, segment.read_bytes())

    def add(self, name: str, content: bytes, *, bundle: str = "") -> None:
        entry: dict[str, Any] = {"size": len(content), "timestamp": 1}
        if content:
            entry["checksum"] = hashlib.sha1(content).hexdigest()
        if not bundle:
            path = self.backup / f"{name}{self.ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.compress(content))
        elif content:
            stored = (raw_deflate if bundle == "raw" else self.compress)(content)
            path = self.backup / "bundle/1"
            path.parent.mkdir(exist_ok=True)
            offset = path.stat().st_size if path.exists() else 0
            with path.open("ab") as file:
                file.write(stored)
            entry |= {"bni": 1, "repo-size": len(stored)} | ({"bno": offset} if offset else {})
        self.entries[name] = entry

    def push(self, segment: str, content: bytes) -> Path:
        path = self.archive / segment[:16]
        path.mkdir(exist_ok=True)
        path /= f"{segment}-{hashlib.sha1(content).hexdigest()}{self.ending}"
        path.write_bytes(self.compress(content))
        return path

    def write_lists(self, system: int, **backup: object) -> Path:
        """Write the lists; the backup's own settings are added to its section."""
        kind = self.ending.removeprefix(".") or "none"
        oids = {name.split("/")[1] for name in self.entries if name.startswith("pg_tblspc/")}
        self._write(
            self.backup / "backup.manifest",
            {
                "backup": {"backup-label": LABEL, **backup},
                "backup:option": {"option-compress-type": kind},
                "backup:target": {f"pg_tblspc/{oid}": {"tablespace-id": oid} for oid in oids},
                "target:file": self.entries,
            },
        )
        version = {"db-version": str(self.major)}
        history = {"1": {"db-id": 1, "db-system-id": system, **version}}
        self._write(self.path / "backup/main/backup.info", {"db:history": history})
        history = {"1": {"db-id": system, **version}}
        self._write(self.path / "archive/main/archive.info", {"db:history": history})
        return self.path

    def _write(self, path: Path, sections: Mapping[str, Mapping[str, object]]) -> None:
        lines = []
        for section, values in sections.items():
            lines += [f"[{section}]", *(f"{k}={json.dumps(v)}" for k, v in values.items()), ""]
        path.write_text("\n".join(lines))
