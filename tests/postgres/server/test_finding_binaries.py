"""Which installation is found, without a real one: shell scripts play the programs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tde.errors import BinariesNotFoundError
from tde.postgres.cluster import cluster
from tde.postgres.server import binaries as module
from tde.postgres.server.binaries import PostgresBinaries, find_binaries, list_binaries


def make_installation(prefix: Path, version: str, *, programs=("postgres", "initdb")) -> Path:
    bindir = prefix / "bin"
    bindir.mkdir(parents=True)
    for program in programs:
        path = bindir / program
        path.write_text(f'#!/bin/sh\necho "{program} (PostgreSQL) {version}"\n')
        path.chmod(0o755)
    return bindir


@pytest.fixture(autouse=True)
def only_what_the_test_makes(monkeypatch):
    monkeypatch.setattr(module, "_SYSTEM_PATTERNS", ())
    monkeypatch.setattr(module, "_from_wheel", lambda: iter(()))
    monkeypatch.setenv("PATH", "/usr/bin/nonexistent")
    monkeypatch.delenv("PG_CONFIG", raising=False)


def test_installations_are_found_in_the_documented_order(tmp_path, monkeypatch):
    by_config = make_installation(tmp_path / "config", "16.1")
    on_path = make_installation(tmp_path / "path", "17.2")
    wheel = make_installation(tmp_path / "wheel", "18.4")
    pg_config = by_config / "pg_config"
    pg_config.write_text(f"#!/bin/sh\necho {by_config}\n")
    pg_config.chmod(0o755)
    monkeypatch.setattr(module, "_from_wheel", lambda: iter([(wheel, "wheel")]))
    monkeypatch.setenv("PG_CONFIG", str(pg_config))
    monkeypatch.setenv("PATH", f"{on_path}:/usr/bin:/bin")
    found = list_binaries()
    assert [b.bindir for b in found] == [by_config, on_path, wheel]
    assert find_binaries().version == (16, 1)
    assert find_binaries(major=18).bindir == wheel
    assert find_binaries(on_path).version_text == "17.2"


def test_links_lead_to_the_installation(tmp_path, monkeypatch):
    bindir = make_installation(tmp_path / "real", "15.18")
    links = tmp_path / "links"
    links.mkdir()
    (links / "postgres").symlink_to(bindir / "postgres")
    monkeypatch.setenv("PATH", f"{links}:{bindir}")
    assert [b.bindir for b in list_binaries()] == [bindir]


@pytest.mark.parametrize(
    ("version", "programs"),
    [("14.9", ("postgres", "initdb")), ("16.1", ("postgres",)), ("devel", ("postgres", "initdb"))],
)
def test_unusable_installations_are_passed_over(tmp_path, monkeypatch, version, programs):
    bindir = make_installation(tmp_path, version, programs=programs)
    monkeypatch.setenv("PATH", str(bindir))
    assert list_binaries() == []
    with pytest.raises(BinariesNotFoundError) as caught:
        find_binaries(bindir)
    assert caught.value.remedy


def test_program_that_does_not_run_is_passed_over(tmp_path, monkeypatch):
    bindir = make_installation(tmp_path, "16.1")
    (bindir / "initdb").write_text("#!/bin/sh\nexit 127\n")
    monkeypatch.setenv("PATH", str(bindir))
    assert list_binaries() == []


def test_a_development_version_has_the_minor_number_0(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(make_installation(tmp_path, "18devel")))
    assert find_binaries().version == (18, 0)


@pytest.mark.parametrize(
    ("said", "version", "text"),
    [
        ("15.20 (Debian 15.20-0+deb12u1)", (15, 20), "15.20"),
        ("19rc1 (Debian 19~rc1-1)", (19, 0), "19rc1"),
        ("19devel", (19, 0), "19devel"),
    ],
)
def test_a_version_is_called_what_the_server_calls_it(tmp_path, said, version, text):
    found = find_binaries(make_installation(tmp_path, said))
    assert (found.version, found.version_text) == (version, text)


def test_nothing_found_says_what_is_there(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(make_installation(tmp_path, "16.1")))
    with pytest.raises(BinariesNotFoundError, match=r"PostgreSQL 15 was found .*16\.1"):
        find_binaries(major=15)


def test_an_explicit_directory_of_another_major_version_is_refused(tmp_path):
    with pytest.raises(BinariesNotFoundError, match="the cluster needs PostgreSQL 15"):
        find_binaries(make_installation(tmp_path, "16.1"), major=15)


def test_a_missing_program_is_named(tmp_path):
    found = find_binaries(make_installation(tmp_path, "16.1"))
    assert found.program("initdb").is_file()
    with pytest.raises(BinariesNotFoundError, match='no program "pgbench"'):
        found.program("pgbench")


def test_a_cluster_asks_once_whether_its_user_reaches_the_programs(
    any_binaries, tmp_path, monkeypatch
):
    asked = []

    def reach(binaries: PostgresBinaries, _: object) -> PostgresBinaries:
        asked.append(binaries)
        return binaries

    monkeypatch.setattr(cluster, "reachable_binaries", reach)
    made = cluster.Cluster(tmp_path / "data", any_binaries)
    assert made.binaries == made.binaries == any_binaries
    assert asked == [any_binaries]
