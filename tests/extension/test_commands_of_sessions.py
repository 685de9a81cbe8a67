"""The command that a session runs: who sees what it is given, and what is left of it."""

from __future__ import annotations

import ctypes
import inspect
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg2
import pytest

from tde.postgres.server.os_user import OsUser, run_as, user_environment
from tests import process_memory
from tests.extension.conftest import SqlCluster
from tests.extension.test_create_tablespace import OPTION
from tests.keystore.cheap_passphrase import PASSPHRASE
from tests.replication.test_keys_on_standbys import wait_for

WORD = PASSPHRASE.decode()
PR_SET_CHILD_SUBREAPER = 36
PTRACE_SEIZE = 0x4206
TDE = Path(sys.executable).with_name("tde")
READING = inspect.getsource(process_memory)

# The second process is in nobody's sight when the first one has ended.
HEEDS = "#!/bin/sh\nsleep 600 &\nexec sleep 600\n"
HEEDS_NOTHING = f"#!/bin/sh\ntrap '' INT TERM\n{HEEDS}"

# As a program of COPY FROM PROGRAM: whatever it can open of a command when that begins, it keeps.
THIEF = """{reading}
import ctypes, os, socket, time
from contextlib import suppress
PIDFD_GETFD = 438
word, data, own, kept = {word!r}, {data!r}, str(os.getpid()), {{}}
syscall = ctypes.CDLL(None).syscall

def steal(name):
    words = open(f"/proc/{{name}}/cmdline", "rb").read().split(b"\\0")
    if name in kept or b"act" not in words or data not in words:
        return
    kept[name] = (open(f"/proc/{{name}}/maps"), os.open(f"/proc/{{name}}/mem", os.O_RDONLY))
    copy = syscall(PIDFD_GETFD, os.pidfd_open(int(name)), 0, 0)
    if copy >= 0:
        os.set_blocking(copy, False)
        kept[name + " input"] = copy
    kept[name + " opened"] = os.open(f"/proc/{{name}}/fd/0", os.O_RDONLY | os.O_NONBLOCK)

def look(maps, memory):
    maps.seek(0)
    for line in maps:
        place, rights = line.split()[:2]
        start, end = (int(number, 16) for number in place.split("-"))
        if rights.startswith("rw") and any(word in p for p in readable_pieces(memory, start, end)):
            print("memory", flush=True)

until = time.monotonic() + {seconds}
while time.monotonic() < until:
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            steal(name)
    for name, what in kept.items():
        with suppress(OSError):
            if isinstance(what, tuple):
                look(*what)
            elif word in os.read(what, 4096):
                print(name, flush=True)
print("looked at", sum(isinstance(what, tuple) for what in kept.values()))
"""


@pytest.fixture
def command(made, os_user_tmp_path, os_user) -> Iterator[Callable[[str], Path]]:
    """Makes a script the server's command; what it gets is the text of the script."""
    path = os_user_tmp_path / "command"

    def reload() -> None:
        made.query("SELECT pg_reload_conf()")

    def use(text: str) -> Path:
        path.write_text(text)
        path.chmod(0o755)
        made.query(f"ALTER SYSTEM SET tde.command = '{path}'")
        reload()
        wait_for(lambda: made.query("SHOW tde.command") == [(str(path),)])
        return path

    yield use
    made.query("ALTER SYSTEM RESET tde.command")
    reload()
    wait_for(lambda: made.query("SHOW tde.command") != [(str(path),)])


@contextmanager
def children_of_the_lost() -> Iterator[Callable[[], list[psutil.Process]]]:
    """What others leave behind becomes children of this process, as of the first of a container.

    Gives a function that returns these.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    own = psutil.Process()
    before = set(own.children())
    assert libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0

    def found() -> list[psutil.Process]:
        return [child for child in own.children() if child not in before]

    try:
        yield found
    finally:
        for child in found():
            child.kill()
            os.waitpid(child.pid, 0)
        libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def of_session(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


@pytest.mark.parametrize("ends", ["pg_cancel_backend", "pg_terminate_backend"])
@pytest.mark.parametrize("script", [HEEDS, HEEDS_NOTHING], ids=["heeds", "heeds nothing"])
@pytest.mark.parametrize(
    "statement", ["SELECT tde_open_keystore('word')", "SELECT * FROM tde_keys"]
)
def test_a_session_that_is_ended_leaves_no_process(made, command, statement, script, ends):
    command(script)
    with children_of_the_lost() as lost, made.session() as connection:
        pid = connection.get_backend_pid()
        errors: list[psycopg2.Error] = []

        def run() -> None:
            with connection.cursor() as cursor, pytest.raises(psycopg2.Error) as caught:
                cursor.execute(statement)
            errors.append(caught.value)

        waiting = threading.Thread(target=run)
        waiting.start()
        wait_for(lambda: [one.name() for one in of_session(pid)].count("sleep") == 2)
        started = of_session(pid)
        made.query(f"SELECT {ends}(%s)", (pid,))
        waiting.join()
        if ends == "pg_terminate_backend":
            wait_for(lambda: not psutil.pid_exists(pid))
        assert errors
        assert [one for one in started if one.is_running()] == []
        assert lost() == []


def started_as_of_session(
    made: SqlCluster, os_user: OsUser | None, channel: socket.socket
) -> subprocess.Popen[str]:
    user = {} if os_user is None else {"user": os_user.uid, "group": os_user.gid}
    return subprocess.Popen(
        [TDE, "extension", "act", "open", "-D", made.data_directory],
        stdin=channel,
        stderr=subprocess.PIPE,
        text=True,
        env=user_environment(os_user),
        cwd="/",
        **user,
    )


def test_a_command_is_closed_when_it_asks(made, os_user):
    here, there = socket.socketpair()
    here.settimeout(60)
    with here, there, started_as_of_session(made, os_user, there) as asking:
        _, (channel,), _, _ = socket.recv_fds(here, 1, 1)
        wait_for(lambda: psutil.Process(asking.pid).children() != [])
        (working,) = psutil.Process(asking.pid).children()
        for pid in (asking.pid, working.pid):
            look = ["cat", f"/proc/{pid}/environ"]
            assert "Permission denied" in run_as(os_user, look).stderr
        os.close(channel)
        _, errors = asking.communicate(timeout=60)
    assert "the extension has sent no passphrase" in errors
    assert asking.returncode != 0


def test_a_program_of_the_server_cannot_take_a_passphrase(made, os_user_tmp_path):
    thief = os_user_tmp_path / "thief.py"
    data = os.fsencode(made.data_directory)
    thief.write_text(THIEF.format(reading=READING, seconds=10, data=data, word=PASSPHRASE))
    made.query("CREATE TABLE stolen (line text)")
    copy = f"COPY stolen FROM PROGRAM '{sys.executable} {thief}'"
    copied = threading.Thread(target=made.query, args=(copy,))
    copied.start()
    try:
        while copied.is_alive():
            made.query("SELECT tde_open_keystore(%s)", (WORD,))
    finally:
        copied.join()
    lines = [line for (line,) in made.query("SELECT line FROM stolen")]
    assert [line for line in lines if not line.startswith("looked at")] == []
    assert lines != ["looked at 0"]  # Or it has not tried.
    made.query("DROP TABLE stolen")


def test_another_program_cannot_ask_in_place_of_the_command(made, command):
    """It has a copy of the command's standard input, from before that was closed to it."""
    command(
        f"#!{sys.executable}\nimport os, socket, time\n"
        "here, there = socket.socketpair()\n"
        "if os.fork() == 0:\n"
        "    socket.send_fds(socket.socket(fileno=0), [b'.'], [there.fileno()])\n"
        "time.sleep(60)\n"
    )
    error = made.fails("SELECT tde_open_keystore('word')")
    assert "not the command itself has asked" in error.diag.message_primary


def test_a_command_with_a_debugger_asks_for_nothing(made, os_user):
    here, there = socket.socketpair()
    libc = ctypes.CDLL(None, use_errno=True)
    with here, there, started_as_of_session(made, os_user, there) as asking:
        assert libc.ptrace(PTRACE_SEIZE, asking.pid, None, None) == 0
        _, errors = asking.communicate(timeout=60)
    assert "a debugger is attached" in errors


def test_what_a_command_says_beside_its_answer_is_a_warning(made, command, os_user_tmp_path):
    """It was read as the answer: the tablespace would have been in a directory of that name."""
    location = os_user_tmp_path / "new"
    command(f'#!/bin/sh\necho "/tmp/warning: disk" >&2\nexec {TDE} "$@"\n')
    with made.session() as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLESPACE warned LOCATION '{location}' WITH ({OPTION} = 'AES128')")
        assert "WARNING:  /tmp/warning: disk\n" in connection.notices
    query = "SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'warned'"
    ((place,),) = made.query(query)
    assert Path(place).parent == location
    made.query("DROP TABLESPACE warned")
