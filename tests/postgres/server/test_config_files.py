"""Configuration files are read as PostgreSQL reads them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tde.postgres.cluster.configuration import files_to_look_through
from tde.postgres.server.config_files import ProgramLine, program_lines


def servers_value(binaries, data: Path, name: str) -> str:
    """Ask the server itself; it needs no cluster for that, but a user that is not root."""
    done = subprocess.run(
        [binaries.program("postgres"), "-D", data, "-C", name],
        capture_output=True,
        text=True,
        check=True,
        user=data.stat().st_uid,
        cwd="/",
    )
    return done.stdout.rstrip("\n")


@pytest.fixture
def data(os_user_tmp_path, os_user) -> Path:
    directory = os_user_tmp_path / "data"
    directory.mkdir(mode=0o700)
    if os_user is not None:
        os.chown(directory, os_user.uid, os_user.gid)
    return directory


def lines_of(data: Path, arguments: Sequence[str] = ()) -> tuple[ProgramLine, ...]:
    return program_lines(files_to_look_through(data, arguments), data, arguments)


def write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    for part in (path, path.parent):
        part.chmod(0o755 if part.is_dir() and part.name != "data" else part.stat().st_mode)
    path.chmod(0o644)


@pytest.mark.parametrize(
    "line",
    [
        "archive_command = 'cp %p /archive/%f'",
        "archive_command='cp %p /archive/%f'# comment",
        "ARCHIVE_Command   'it''s'",
        r"archive_command = 'it\'s'",
        r"archive_command = '\143p\t\x%p'",
        "\t archive_command=true\r",
        "archive_command'quoted # no comment'",
        "archive_command = cp",
    ],
)
def test_quotes_and_comments(data, any_binaries, line):
    write(data / "postgresql.conf", f"# archive_command = 'comment'\n{line}\n")
    (found,) = lines_of(data)
    assert (found.name, found.line) == ("archive_command", 2)
    assert found.value.decode() == servers_value(any_binaries, data, "archive_command")


@pytest.mark.parametrize(
    ("line", "file"),
    [
        ("include 'other.conf'", "other.conf"),
        ("include = other_file", "other_file"),
        ("Include_If_Exists 'sub/other.conf'", "sub/other.conf"),
        ("include_dir './sub/deep'", "sub/deep/other.conf"),
    ],
)
def test_includes(data, any_binaries, line, file):
    write(data / "postgresql.conf", f"{line}\n")
    write(data / file, "archive_command = 'from there'\n")
    write(data / "sub/.hidden.conf", "archive_command = 'hidden'\n")
    assert servers_value(any_binaries, data, "archive_command") == "from there"
    include, command = lines_of(data)
    assert include.name.startswith("include")
    assert (command.file, command.line, command.value) == (data / file, 1, b"from there")


def test_a_directory_beside_the_file_is_as_good_as_the_file(data, os_user_tmp_path):
    """Debian's conf.d: what is in it is named, and the line that includes it says no more."""
    write(data / "postgresql.conf", "include_dir 'conf.d'\n")
    write(data / "conf.d/mine.conf", "work_mem = 4MB\n")
    assert lines_of(data) == ()
    write(data / "conf.d/other.conf", "archive_command = 'from there'\n")
    (command,) = lines_of(data)
    assert command.value == b"from there"
    # A link leads to where others may write.
    (data / "conf.d").rename(os_user_tmp_path / "elsewhere")
    (data / "conf.d").symlink_to(os_user_tmp_path / "elsewhere")
    assert [line.name for line in lines_of(data)] == ["include_dir", "archive_command"]


def test_each_kind_of_setting_is_named(data):
    names = [
        *("archive_library", "restore_command", "recovery_end_command", "archive_cleanup_command"),
        *("ssl_passphrase_command", "shared_preload_libraries", "session_preload_libraries"),
        *("local_preload_libraries", "jit_provider", "dynamic_library_path"),
        *("oauth_validator_libraries", "plperl.on_init", "some_module.archive_command"),
    ]
    others = ["work_mem = 4MB", "archive_mode = on", "archive_commands = 'x'", "archive_command=''"]
    others += ["primary_conninfo = 'host=a port=1 sslkey=/etc/key'"]
    engine = "primary_conninfo = 'host=a sslkey=/srv/pg/evil.so:key'"
    write(data / "postgresql.conf", "\n".join([*others, *(f"{name} = 'x'" for name in names)]))
    write(data / "postgresql.auto.conf", engine)
    assert [line.name for line in lines_of(data)] == [*names, "primary_conninfo"]


def test_arguments_of_the_server(data):
    outside = data.parent / "etc.conf"
    write(outside, "archive_command = 'outside'\n")
    write(data / "postgresql.conf", "archive_command = 'inside'\n")
    arguments = ["-c", f"config_file={outside}", "--restore-command=x", "-cjit_provider=y", "-i"]
    found = {(line.name, line.value) for line in lines_of(data, arguments)}
    assert found == {
        ("archive_command", b"outside"),
        ("archive_command", b"inside"),
        ("restore_command", b"x"),
        ("jit_provider", b"y"),
    }


def test_what_cannot_be_read_breaks_nothing(data):
    (data / "loop").symlink_to(data / "loop")
    os.mkfifo(data / "fifo")
    for number in range(2000):
        (data / f"{number}.conf").write_text(f"include_if_exists '{number + 1}.conf'")
    lines = [
        f"include_if_exists '{name}'"
        for name in ("loop", "fifo", "data", "missing", ".", "a\0b", "0.conf")
    ]
    write(data / "postgresql.conf", "\n".join([*lines, "include 'postgresql.conf'", "'"]))
    write(data / "postgresql.auto.conf", "archive_command = 'a\x1b[2Jb'\n")
    *_, found = lines_of(data)
    assert found.shown == r"a\x1b[2Jb"


def test_commands_of_hosts(data):
    """PostgreSQL 19 runs what the fifth field of a line says, as the server's user."""
    elsewhere = data.parent / "hosts"
    write(data / "postgresql.conf", f"hosts_file = '{elsewhere}'\n")
    write(data / "pg_hosts.conf", "# host cert key ca command\nplain.example a.crt a.key a.ca\n")
    write(
        elsewhere,
        "a a.crt a.key a.ca /bin/one\n"
        'b b.crt "b key" \\\n b.ca "/bin/two x" on\n'
        "# a comment \\\n that goes on a b c d e f\n"
        "include more_hosts\n"
        "d d.crt d.key d.ca @command\n",
    )
    write(data.parent / "more_hosts", "c c.crt c.key c.ca /bin/three\nnone\n\n# comment\n")
    write(data.parent / "command", "/bin/four\n")
    setting, *found = lines_of(data)
    assert (setting.name, setting.value) == ("hosts_file", os.fsencode(elsewhere))
    assert [(line.file.name, line.line, line.value.split()[-1]) for line in found] == [
        ("hosts", 1, b"/bin/one"),
        ("hosts", 2, b"on"),
        ("hosts", 6, b"more_hosts"),
        ("hosts", 7, b"@command"),
        ("more_hosts", 1, b"/bin/three"),
        ("more_hosts", 2, b"none"),
        ("command", 1, b"/bin/four"),
    ]


def test_hosts_that_take_each_other_in(data):
    write(data / "pg_hosts.conf", "include pg_hosts.conf\ninclude_dir .\ninclude_if_exists b\n@b\n")
    write(data / "postgresql.conf", "include 'missing'\n")
    write(data / "b", "@pg_hosts.conf\n@b\n")
    assert {line.file.name for line in lines_of(data)} >= {"pg_hosts.conf", "b"}
