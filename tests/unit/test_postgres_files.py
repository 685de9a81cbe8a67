"""The small files: postmaster.pid and .opts, the marker, the guard, counters, sockets."""

from __future__ import annotations

import json
import os
import stat
import struct
from pathlib import Path
from uuid import uuid4

import pytest

from tde.errors import ClusterKeystoreError, DataDirectoryError, NoDataDirectoryError
from tde.postgres.cluster.guard import add_guard
from tde.postgres.cluster.marker import Marker, read_marker, require_matching_keystore
from tde.postgres.cluster.scope import Scope
from tde.postgres.server import pidfile
from tde.postgres.server.control import read_major_version
from tde.postgres.server.counters import COUNTERS_MAGIC, IoCounters, io_counters, parse_counters
from tde.postgres.server.interposer import GUARD_FILE
from tde.postgres.server.owned_files import append_to_file, write_owned_file
from tde.postgres.server.pidfile import read_postmaster_file, read_server_arguments
from tde.postgres.server.program import program_arguments
from tde.postgres.server.sockets import (
    create_private_directory,
    is_configured,
    private_directory,
    remove_private_directory,
    split_socket_argument,
    usable_stock_directory,
)

PID_FILE = "4711\n/srv/data\n1700000000\n5433\n/tmp\nlocalhost\n  123 456\nready   \n"


@pytest.fixture
def alive(monkeypatch):
    monkeypatch.setattr(pidfile, "is_server_of", lambda pid, directory: pid == 4711)


def test_postmaster_pid(tmp_path, alive):
    (tmp_path / "postmaster.pid").write_text(PID_FILE)
    found = read_postmaster_file(tmp_path)
    assert found == pidfile.PostmasterFile(4711, 5433, "/tmp", "localhost", "ready")


@pytest.mark.parametrize("lines", range(1, 8))
def test_postmaster_pid_of_a_starting_server(tmp_path, alive, lines):
    (tmp_path / "postmaster.pid").write_text("\n".join(PID_FILE.split("\n")[:lines]))
    found = read_postmaster_file(tmp_path)
    assert found is not None
    assert (found.pid, found.status) == (4711, "")


@pytest.mark.parametrize("content", ["", "garbage\n", PID_FILE.replace("4711", "4712")])
def test_stale_or_useless_postmaster_pid(tmp_path, alive, content):
    (tmp_path / "postmaster.pid").write_text(content)
    assert read_postmaster_file(tmp_path) is None


def test_process_that_is_not_a_server():
    assert not pidfile.is_postgres_process(os.getpid())


def test_postmaster_pid_of_another_cluster(tmp_path, monkeypatch):
    # The process id of a killed server was given to the server of another cluster.
    monkeypatch.setattr(pidfile, "is_postgres_process", lambda pid: True)
    (tmp_path / "postmaster.pid").write_text(PID_FILE.replace("4711", str(os.getpid())))
    assert read_postmaster_file(tmp_path) is None
    monkeypatch.chdir(tmp_path)
    assert read_postmaster_file(tmp_path) is not None
    (tmp_path.parent / "link").symlink_to(tmp_path)
    assert read_postmaster_file(tmp_path.parent / "link") is not None


def test_postmaster_opts(tmp_path):
    assert read_server_arguments(tmp_path) == []
    (tmp_path / "postmaster.opts").write_text(
        '/usr/lib/postgresql/15/bin/postgres "-D" "/srv/data" "-c" "work_mem=4 MB" "-i"\n'
    )
    assert read_server_arguments(tmp_path) == ["-c", "work_mem=4 MB", "-i"]


@pytest.mark.parametrize("content", [None, "", "fifteen"])
def test_not_a_data_directory(tmp_path, content):
    if content is not None:
        (tmp_path / "PG_VERSION").write_text(content)
    with pytest.raises(NoDataDirectoryError):
        read_major_version(tmp_path)


def test_marker_round_trip(tmp_path):
    assert read_marker(tmp_path) is None
    marker = Marker(uuid4(), Path("/etc/tde/main"), Scope.TABLESPACES)
    marker.write(tmp_path, None)
    assert read_marker(tmp_path) == marker
    assert stat.S_IMODE((tmp_path / "tde.json").stat().st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["tde.json"]
    require_matching_keystore(tmp_path, marker, marker.keystore_uuid)
    with pytest.raises(ClusterKeystoreError):
        require_matching_keystore(tmp_path, marker, uuid4())


@pytest.mark.parametrize(
    "change",
    [
        {"format": "other"},
        {"version": 2},
        {"scope": "everything"},
        {"keystore_uuid": "123"},
        {"keystore_uuid": None},
        {"keystore": None},
    ],
    ids=str,
)
def test_damaged_marker(tmp_path, change):
    Marker(uuid4(), Path("/etc/tde/main"), Scope.CLUSTER).write(tmp_path, None)
    path = tmp_path / "tde.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(DataDirectoryError) as caught:
        read_marker(tmp_path)
    assert caught.value.remedy


@pytest.mark.parametrize("content", ["", "{", "[]", "\x00"])
def test_marker_that_is_not_json(tmp_path, content):
    (tmp_path / "tde.json").write_text(content)
    with pytest.raises(DataDirectoryError):
        read_marker(tmp_path)


def test_guard_is_included(tmp_path):
    configuration = tmp_path / "postgresql.conf"
    configuration.write_text("port = 5432\n")
    add_guard(tmp_path, None)
    text = configuration.read_text()
    assert text.startswith("port = 5432\n")
    assert text.endswith(f"\ninclude '{GUARD_FILE}'\n")


def test_links_are_not_written_through(tmp_path):
    target = tmp_path / "target"
    target.write_text("untouched")
    link = tmp_path / "link"
    link.symlink_to(target)
    with pytest.raises(OSError, match="symbolic links"):
        append_to_file(link, "x", None)
    write_owned_file(link, "new", None)  # Replaces the link itself.
    assert target.read_text() == "untouched"
    assert link.read_text() == "new"


def counter_area(stripes: list[list[int]], words: int = 8) -> bytes:
    start = 8  # In words: the stripes are aligned to cache lines.
    header = struct.pack("=8Q", COUNTERS_MAGIC, len(stripes), words, start, 0, 0, 0, 0)
    return header + b"".join(struct.pack(f"={words}Q", *stripe) for stripe in stripes)


def test_counters_are_summed_over_stripes():
    area = counter_area([[1, 2, 3, 4, 5, 6, 0, 0], [10, 20, 30, 40, 50, 60, 9, 9]])
    found = parse_counters(area)
    assert found == IoCounters(11, 22, 33, 44, 55, 66)
    assert (found.bytes_encrypted, found.bytes_decrypted) == (99, 132)
    assert found - IoCounters(1, 2, 3, 4, 5, 6) == IoCounters(10, 20, 30, 40, 50, 60)


def test_unknown_counters():
    area = counter_area([[1] * 8])
    assert parse_counters(b"") is None
    assert parse_counters(area[:-1]) is None
    assert parse_counters(b"\0" * len(area)) is None
    assert parse_counters(counter_area([[1] * 5], words=5)) is None
    assert io_counters(os.getpid()) is None
    assert io_counters(2**22 + 1) is None  # Above the kernel's limit for process ids.


def test_socket_setting_is_recognized(tmp_path):
    assert not is_configured(tmp_path)
    configuration = tmp_path / "postgresql.conf"
    configuration.write_text("#unix_socket_directories = '/tmp'\nport = 1\n")
    assert not is_configured(tmp_path)
    (tmp_path / "postgresql.auto.conf").write_text("unix_socket_directories = '/srv'\n")
    assert is_configured(tmp_path)


def test_private_socket_directory(tmp_path):
    created = create_private_directory(tmp_path, None)
    try:
        assert stat.S_IMODE(created.stat().st_mode) == 0o700
        assert len(f"{created}/.s.PGSQL.65535") <= 107
        assert create_private_directory(tmp_path, None) == created
        created.chmod(0o777)
        with pytest.raises(DataDirectoryError, match="belongs to somebody else"):
            create_private_directory(tmp_path, None)
    finally:
        remove_private_directory(tmp_path, None)
    assert not created.exists()
    remove_private_directory(tmp_path, None)


def test_link_in_place_of_the_private_directory(tmp_path):
    link = private_directory(tmp_path, None)
    link.symlink_to(tmp_path)
    try:
        with pytest.raises(DataDirectoryError):
            create_private_directory(tmp_path, None)
    finally:
        link.unlink()


def test_stock_socket_directory(tmp_path):
    assert usable_stock_directory(f"{tmp_path}, /other", 5432, None) == tmp_path
    (tmp_path / ".s.PGSQL.5432.lock").touch()
    assert usable_stock_directory(str(tmp_path), 5432, None) is None
    assert usable_stock_directory(str(tmp_path), 5433, None) == tmp_path
    assert usable_stock_directory(str(tmp_path / "missing"), 5432, None) is None
    assert usable_stock_directory("@abstract", 5432, None) is None


def test_socket_argument_of_the_last_start_is_taken_out():
    private = Path("/tmp/tde-0-abc")
    own = ["-c", f"unix_socket_directories={private}"]
    both = ["-c", f"unix_socket_directories=/tmp,{private}"]
    configured = ["-c", "unix_socket_directories=/srv/sockets"]
    rest = ["-p", "5433"]
    assert split_socket_argument([*rest, *own], private) == (rest, False)
    assert split_socket_argument([*both, *rest], private) == (rest, True)
    assert split_socket_argument([*rest, *configured], private) == ([*rest, *configured], False)


@pytest.mark.parametrize(
    ("program", "arguments", "expected"),
    [
        ("pg_basebackup", ["-D", "x"], ["-D", "x", "--no-verify-checksums"]),
        ("pg_basebackup", ["--help"], ["--help"]),
        ("pg_basebackup", ["-V"], ["-V"]),
        ("pg_basebackup", [], ["--no-verify-checksums"]),
        ("pg_waldump", ["-n", "1"], ["-n", "1"]),
    ],
)
def test_arguments_of_programs(program, arguments, expected):
    assert program_arguments(program, arguments, encrypted=True) == expected
    assert program_arguments(program, arguments, encrypted=False) == arguments
