"""``tde extension``: building, installing, removing."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.extension.conftest import has_headers

TDE = Path(sys.executable).with_name("tde")


def run(*arguments: object, exit_code: int = 0, **variables: str) -> str:
    done = subprocess.run(
        [TDE, "extension", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **variables},
        timeout=120,
    )
    assert done.returncode == exit_code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def bindir(any_binaries, tmp_path) -> Path:
    """An installation whose directories for extensions are ours."""
    if not has_headers(any_binaries):
        pytest.skip("no headers of the server, which .ci/run installs")
    directory = tmp_path / "pg" / "bin"
    directory.mkdir(parents=True)
    for name in ("postgres", "initdb"):
        # What is linked leads back to the installation itself.
        (directory / name).write_text(f'#!/bin/sh\nexec {any_binaries.bindir / name} "$@"\n')
        (directory / name).chmod(0o755)
    (tmp_path / "pg" / "lib").mkdir()
    (tmp_path / "pg" / "share" / "extension").mkdir(parents=True)
    config = directory / "pg_config"
    headers = subprocess.run(
        [any_binaries.bindir / "pg_config", "--includedir-server"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    config.write_text(
        f"#!/bin/sh\necho {headers}\necho {tmp_path}/pg/lib\necho {tmp_path}/pg/share\n"
    )
    config.chmod(0o755)
    return directory


def test_it_is_installed_into_the_server_and_removed(bindir, tmp_path):
    where = ("--bindir", bindir)
    assert "not installed" in run("status", *where, exit_code=1)
    said = run("install", *where)
    library = tmp_path / "pg" / "lib" / "tde.so"
    assert str(library) in said
    assert "shared_preload_libraries = 'tde'" in said
    assert stat.S_IMODE(library.stat().st_mode) == 0o755
    scripts = {path.name for path in (tmp_path / "pg" / "share" / "extension").iterdir()}
    assert scripts == {"tde.control", "tde--1.0.sql", "tde_pgx.control", "tde_pgx--1.0.sql"}
    status = json.loads(run("status", *where, "--json"))
    assert status["installed"] is True
    assert status["statements"] == ["CREATE EXTENSION tde"]
    assert str(TDE).encode() in library.read_bytes()  # What it runs.
    run("remove", *where)
    assert list((tmp_path / "pg").rglob("tde*")) == []


def test_what_is_missing_is_named(bindir, any_binaries, tmp_path):
    major = any_binaries.major
    where = ("--bindir", bindir)
    config = bindir / "pg_config"
    text = config.read_text()
    config.write_text(text.replace("server\n", "nowhere\n", 1))
    said = run("install", *where, exit_code=1)
    assert f"there are no headers of PostgreSQL {major}" in said
    assert f"apt-get install postgresql-server-dev-{major}" in said
    config.unlink()
    assert f"postgresql-server-dev-{major}" in run("install", *where, exit_code=1)
    config.write_text(text)
    config.chmod(0o755)
    said = run("install", *where, exit_code=1, CC="/no/such/compiler")
    assert "cannot be run" in said
    said = run("install", *where, exit_code=1, CC="/bin/false")
    assert "the compiler failed" in said
    said = run("install", *where, "--command", tmp_path / "nothing", exit_code=1)
    assert "there is no command" in said
    shutil.rmtree(tmp_path / "pg" / "lib")
    said = run("install", *where, exit_code=1)
    assert "could not write" in said
    assert "--directory" in said
    assert list((tmp_path / "pg" / "share" / "extension").iterdir()) == []


def test_a_directory_of_its_own_says_what_the_server_must_know(any_binaries, tmp_path):
    if not has_headers(any_binaries):
        pytest.skip("no headers of the server, which .ci/run installs")
    said = run("install", "--bindir", any_binaries.bindir, "--directory", tmp_path / "own")
    assert f"dynamic_library_path = '{tmp_path}/own/lib:$libdir'" in said
    scripts = tmp_path / "own" / "share" / "extension"
    assert (f"\\i {scripts}/tde.sql" in said) is (any_binaries.major < 18)
    assert "module_pathname = 'tde'" in (scripts / "tde.control").read_text()
    assert "MODULE_PATHNAME" not in (scripts / "tde.sql").read_text()


def test_it_compiles_without_a_warning_for_every_server(postgres_installations, tmp_path):
    from tde.postgres.extension.building import build_library

    built = 0
    for major, binaries in postgres_installations.items():
        if not has_headers(binaries):
            continue
        directory = tmp_path / str(major)
        directory.mkdir()
        os.environ["CC"] = "cc -Werror"
        try:
            build_library(binaries, TDE, directory)
        finally:
            del os.environ["CC"]
        built += 1
    assert built >= 2  # The wheel's.
