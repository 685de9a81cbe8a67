"""What a server leaves for others: postmaster.pid and .opts, sockets, counters."""

from __future__ import annotations

import os
import stat
import struct
import subprocess
from pathlib import Path

import pytest

from tde.errors import DataDirectoryError, NoDataDirectoryError
from tde.postgres.server import pidfile, published, start_settings
from tde.postgres.server.control import read_major_version
from tde.postgres.server.counters import IoCounters, io_counters, sum_counters
from tde.postgres.server.pidfile import read_postmaster_file, read_server_arguments
from tde.postgres.server.program import program_arguments
from tde.postgres.server.published import parse_published_status, read_published_status
from tde.postgres.server.sockets import (
    SETTING,
    create_private_directory,
    is_configured,
    private_directory,
    remove_private_directory,
    split_socket_argument,
    usable_stock_directory,
)
from tde.postgres.server.start_settings import StartSettings
from tests.postgres.crashes.file_rewrites import kill_server

PID_FILE = "4711\n/srv/data\n1700000000\n5433\n/tmp\nlocalhost\n  123 456\nready   \n"


@pytest.fixture
def alive(monkeypatch):
    monkeypatch.setattr(pidfile, "is_server_of", lambda pid, directory: pid == 4711)


def test_postmaster_pid_is_read(tmp_path, alive):
    (tmp_path / "postmaster.pid").write_text(PID_FILE)
    found = read_postmaster_file(tmp_path)
    assert found == pidfile.PostmasterFile(4711, 5433, "/tmp", "localhost", "ready")


@pytest.mark.parametrize("lines", range(1, 8))
def test_postmaster_pid_of_a_starting_server_is_read(tmp_path, alive, lines):
    (tmp_path / "postmaster.pid").write_text("\n".join(PID_FILE.split("\n")[:lines]))
    found = read_postmaster_file(tmp_path)
    assert found is not None
    assert (found.pid, found.status) == (4711, "")


@pytest.mark.parametrize("content", ["", "garbage\n", PID_FILE.replace("4711", "4712")])
def test_stale_or_useless_postmaster_pid_counts_as_none(tmp_path, alive, content):
    (tmp_path / "postmaster.pid").write_text(content)
    assert read_postmaster_file(tmp_path) is None


def test_process_that_is_not_a_server_is_not_taken_for_one():
    assert not pidfile.is_postgres_process(os.getpid())


def test_postmaster_pid_of_another_cluster_counts_as_none(tmp_path, monkeypatch):
    # The process id of a killed server was given to the server of another cluster.
    monkeypatch.setattr(pidfile, "is_postgres_process", lambda pid: True)
    (tmp_path / "postmaster.pid").write_text(PID_FILE.replace("4711", str(os.getpid())))
    assert read_postmaster_file(tmp_path) is None
    monkeypatch.chdir(tmp_path)
    assert read_postmaster_file(tmp_path) is not None
    (tmp_path.parent / "link").symlink_to(tmp_path)
    assert read_postmaster_file(tmp_path.parent / "link") is not None


def test_arguments_of_the_last_start_are_read(tmp_path):
    assert read_server_arguments(tmp_path) == []
    (tmp_path / "postmaster.opts").write_text(
        '/usr/lib/postgresql/15/bin/postgres "-D" "/srv/data" "-c" "work_mem=4 MB" "-i"\n'
    )
    assert read_server_arguments(tmp_path) == ["-c", "work_mem=4 MB", "-i"]


@pytest.mark.parametrize("content", [None, "", "fifteen"])
def test_a_directory_without_a_version_is_no_data_directory(tmp_path, content):
    if content is not None:
        (tmp_path / "PG_VERSION").write_text(content)
    with pytest.raises(NoDataDirectoryError):
        read_major_version(tmp_path)


MAGIC = 0x5444455354415431
STATUS = Path("/dev/shm/tde-1-4711-0")
TEXTS = b"/srv/log".ljust(4096, b"\0") + b"/lib/libcrypto.so.3".ljust(4096, b"\0") + bytes(256)


def status_file(stripes: list[list[int]], words: int = 8, magic: int = MAGIC) -> bytes:
    start = 64 + len(TEXTS)
    header = struct.pack("=8Q", magic, 4711, 99, 5, 6, len(stripes), words, start)
    return header + TEXTS + b"".join(struct.pack(f"={words}Q", *stripe) for stripe in stripes)


def test_counters_are_summed_over_stripes():
    area = status_file([[1, 2, 3, 4, 5, 6, 0, 0], [10, 20, 30, 40, 50, 60, 9, 9]])
    published = parse_published_status(area, 4711, 99, STATUS)
    assert published is not None
    assert (published.directory, published.standard_error) == ((5, 6), "/srv/log")
    assert (published.libcrypto, published.openssl_capabilities) == ("/lib/libcrypto.so.3", "")
    found = sum_counters(published)
    assert found == IoCounters(11, 22, 33, 44, 55, 66)
    assert (found.bytes_encrypted, found.bytes_decrypted) == (99, 132)
    assert found - IoCounters(1, 2, 3, 4, 5, 6) == IoCounters(10, 20, 30, 40, 50, 60)


def test_the_version_of_the_library_is_told_since_servers_tell_it():
    area = status_file([[1] * 8])
    without = parse_published_status(area, 4711, 99, STATUS)
    assert without is not None
    assert without.libcrypto_version == ""
    more = 16 + 32 + 16 + 8 + 128 + 4104 + 32 + 16 + 63 * 4 + 4 + 8  # Keys and what is withheld.
    version = b"OpenSSL 3.5.8 25 Aug 2026".ljust(64, b"\0")
    header = struct.pack("=8Q", MAGIC, 4711, 99, 5, 6, 1, 8, 64 + len(TEXTS) + more + 64)
    told = header + TEXTS + bytes(more) + version + struct.pack("=8Q", *[1] * 8)
    found = parse_published_status(told, 4711, 99, STATUS)
    assert found is not None
    assert found.libcrypto_version == "OpenSSL 3.5.8 25 Aug 2026"
    assert sum_counters(found) == IoCounters(1, 1, 1, 1, 1, 1)


def test_a_status_that_changes_is_read_until_it_settles(monkeypatch):
    """On 64-bit ARM a reading may have a new number, and in front of it what was there before."""
    old, new = status_file([[1] * 8]), status_file([[2] * 8])
    mixed = old[:64] + b"/half".ljust(4096, b"\0") + new[64 + 4096 :]
    readings = iter([mixed, new, status_file([[3] * 8])])
    monkeypatch.setattr(published, "_read", lambda path, owner: next(readings))
    monkeypatch.setattr(published, "_candidates", lambda pid: [STATUS])
    monkeypatch.setattr(published, "process_user", lambda pid: 0)
    monkeypatch.setattr(published, "start_time", lambda pid: 99)
    # The three differ in counters, too, which lie behind all that an earlier release publishes.
    monkeypatch.setattr(published, "_SETTLED", 64 + len(TEXTS))
    found = read_published_status(4711)
    assert found is not None
    assert (found.standard_error, list(found.stripes[::8])) == ("/srv/log", [3] * 8)


def test_a_status_that_is_not_understood_or_of_another_process_counts_as_none():
    area = status_file([[1] * 8])
    assert parse_published_status(b"", 4711, 99, STATUS) is None
    assert parse_published_status(area[:-1], 4711, 99, STATUS) is None
    assert parse_published_status(b"\0" * len(area), 4711, 99, STATUS) is None
    assert parse_published_status(status_file([[1] * 8], magic=1), 4711, 99, STATUS) is None
    assert parse_published_status(area, 4712, 99, STATUS) is None
    # A killed server had this number.
    assert parse_published_status(area, 4711, 98, STATUS) is None
    few = parse_published_status(status_file([[1] * 5], words=5), 4711, 99, STATUS)
    assert few is not None
    assert sum_counters(few) is None
    assert io_counters(os.getpid()) is None
    assert io_counters(2**22 + 1) is None  # Above the kernel's limit for process ids.


def test_socket_setting_is_recognized(tmp_path):
    assert not is_configured(tmp_path)
    configuration = tmp_path / "postgresql.conf"
    configuration.write_text("#unix_socket_directories = '/tmp'\nport = 1\n")
    assert not is_configured(tmp_path)
    (tmp_path / "postgresql.auto.conf").write_text("unix_socket_directories = '/srv'\n")
    assert is_configured(tmp_path)


def test_private_socket_directory_is_the_users_alone(tmp_path):
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


def test_link_in_place_of_the_private_directory_is_refused(tmp_path):
    link = private_directory(tmp_path, None)
    link.symlink_to(tmp_path)
    try:
        with pytest.raises(DataDirectoryError):
            create_private_directory(tmp_path, None)
    finally:
        link.unlink()


def test_stock_socket_directory_is_used_while_it_is_free(tmp_path):
    assert usable_stock_directory(f"{tmp_path}, /other", 5432, None) == tmp_path
    (tmp_path / ".s.PGSQL.5432.lock").touch()
    assert usable_stock_directory(str(tmp_path), 5432, None) is None
    assert usable_stock_directory(str(tmp_path), 5433, None) == tmp_path
    assert usable_stock_directory(str(tmp_path / "missing"), 5432, None) is None
    assert usable_stock_directory("@abstract", 5432, None) is None


def _lock(directory: Path, pid: object) -> Path:
    lock = directory / ".s.PGSQL.5432.lock"
    lock.write_text(f"{pid}\n{directory}\n1700000000\n5432\n{directory}\n")
    return lock


def test_a_lock_that_a_killed_server_left_does_not_take_the_stock_directory(tmp_path):
    ended = subprocess.Popen(["/bin/true"])
    ended.wait()
    _lock(tmp_path, ended.pid)
    assert usable_stock_directory(str(tmp_path), 5432, None) == tmp_path


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a process of another user")
def test_a_lock_counts_by_the_process_of_the_servers_own_user(os_user_tmp_path, os_user):
    lock = _lock(os_user_tmp_path, os.getpid())
    os.chown(lock, os_user.uid, os_user.gid)
    # CreateLockFile takes a process that it may not signal for no server of this file.
    assert usable_stock_directory(str(os_user_tmp_path), 5432, os_user) == os_user_tmp_path
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, user=os_user.uid) as other:
        lock.write_text(f"{other.pid}\n")
        assert usable_stock_directory(str(os_user_tmp_path), 5432, os_user) is None


def test_a_lock_of_a_live_process_or_of_unknown_content_takes_the_directory(tmp_path):
    for pid in (os.getpid(), f"-{os.getpid()}", "nonsense", "99999999999999"):
        _lock(tmp_path, pid)
        assert usable_stock_directory(str(tmp_path), 5432, None) is None


def test_a_lock_that_is_a_link_or_a_pipe_takes_the_directory(tmp_path):
    stale = tmp_path / "stale"
    stale.write_text("999999999\n")
    lock = tmp_path / ".s.PGSQL.5432.lock"
    for make in (lambda: lock.symlink_to(stale), lambda: os.mkfifo(lock)):
        make()
        assert usable_stock_directory(str(tmp_path), 5432, None) is None
        lock.unlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_stale_lock_of_another_user_takes_the_directory(os_user_tmp_path, os_user):
    lock = _lock(os_user_tmp_path, 999999999)
    os.chown(lock, os_user.uid + 1, -1)
    for mode in (0o600, 0o644):
        lock.chmod(mode)
        assert usable_stock_directory(str(os_user_tmp_path), 5432, os_user) is None


def test_a_server_takes_its_stock_directory_again_after_its_postmaster_was_killed(
    encrypted_cluster_factory, os_user_tmp_path, any_binaries, os_user, monkeypatch
):
    # The compiled-in directory is everybody's, so the test has one of its own.
    sockets = os_user_tmp_path / "s"
    sockets.mkdir()
    if os_user is not None:
        os.chown(sockets, os_user.uid, os_user.gid)
    monkeypatch.setattr(
        start_settings, "build_setting", lambda name, *_: str(sockets) if name == SETTING else ""
    )
    # Where the server takes its own default for the socket, it is ours.
    value = StartSettings._value
    monkeypatch.setattr(
        StartSettings,
        "_value",
        lambda self, name: str(sockets) if name == SETTING else value(self, name),
    )
    made = encrypted_cluster_factory(any_binaries, start=False)
    made.start(stock_socket=True)
    assert made.cluster.connection_parameters()["host"] == str(sockets)
    kill_server(made.cluster.pid)
    assert list(sockets.glob("*.lock"))
    made.start(stock_socket=True)
    assert made.cluster.connection_parameters()["host"] == str(sockets)


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
def test_base_backups_of_ciphertext_verify_no_checksums(program, arguments, expected):
    assert program_arguments(program, arguments, encrypted=True) == expected
    assert program_arguments(program, arguments, encrypted=False) == arguments
