"""The command that a session runs: who sees what it is given, and what is left of it."""

from __future__ import annotations

import ctypes
import json
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

from tde.postgres.server.os_user import run_as, user_environment
from tests.extension.test_create_tablespace import OPTION
from tests.keystore.cheap_passphrase import PASSPHRASE
from tests.replication.test_keys_on_standbys import wait_for

WORD = PASSPHRASE.decode()
PR_SET_CHILD_SUBREAPER = 36
TDE = Path(sys.executable).with_name("tde")

# The second process is in nobody's sight when the first one has ended.
HEEDS = "#!/bin/sh\nsleep 600 &\nexec sleep 600\n"
HEEDS_NOTHING = f"#!/bin/sh\ntrap '' INT TERM\n{HEEDS}"

NOTES = """#!{python}
import json, os, select
early = bool(select.select([0], [], [], 1)[0])
os.write(0, b"\\x01")
got = b""
while part := os.read(0, 4096):
    got += part
try:
    os.open("/proc/self/fd/0", os.O_RDONLY)
    error = 0
except OSError as failed:
    error = failed.errno
with open({to!r}, "w") as file:
    json.dump({{"early": early, "got": got.hex(), "error": error}}, file)
"""

# As a program of COPY FROM PROGRAM: it takes whatever a command gets on its standard input.
THIEF = """
import os, time
until = time.monotonic() + {seconds}
while time.monotonic() < until:
    for name in os.listdir("/proc"):
        try:
            with open(f"/proc/{{name}}/cmdline", "rb") as file:
                words = file.read().split(b"\\0")
            if b"act" in words and {data!r} in words:
                fd = os.open(f"/proc/{{name}}/fd/0", os.O_RDONLY)
                print(os.read(fd, 4096).hex())
        except OSError:
            pass
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


def test_a_command_gets_a_passphrase_when_it_asks(made, command, os_user_tmp_path):
    """From its exec to then, its memory and descriptors are open to its user's other programs."""
    to = os_user_tmp_path / "noted"
    command(NOTES.format(python=sys.executable, to=str(to)))
    made.query(f"SELECT tde_open_keystore('{WORD}')")
    noted = json.loads(to.read_text())
    sent = len(PASSPHRASE).to_bytes(4, "big") + PASSPHRASE
    assert noted == {"early": False, "got": sent.hex(), "error": 6}  # ENXIO


def test_a_command_is_closed_when_it_asks(made, os_user):
    here, there = socket.socketpair()
    here.settimeout(60)
    user = {} if os_user is None else {"user": os_user.uid, "group": os_user.gid}
    with here, there:
        with subprocess.Popen(
            [TDE, "extension", "act", "open", "-D", made.data_directory],
            stdin=there,
            stderr=subprocess.DEVNULL,
            env=user_environment(os_user, None),
            cwd="/",
            **user,
        ) as asking:
            assert here.recv(1) == b"\x01"
            for name in ("environ", "maps"):
                look = ["cat", f"/proc/{asking.pid}/{name}"]
                assert "Permission denied" in run_as(os_user, look).stderr
            here.shutdown(socket.SHUT_RDWR)
        assert asking.returncode != 0


def test_a_program_of_the_server_cannot_take_a_passphrase(made, os_user_tmp_path):
    thief = os_user_tmp_path / "thief.py"
    thief.write_text(THIEF.format(seconds=8, data=os.fsencode(made.data_directory)))
    made.query("CREATE TABLE stolen (bytes text)")
    copy = f"COPY stolen FROM PROGRAM '{sys.executable} {thief}'"
    copied = threading.Thread(target=made.query, args=(copy,))
    copied.start()
    try:
        while copied.is_alive():
            made.query("SELECT tde_open_keystore(%s)", (WORD,))
    finally:
        copied.join()
    assert made.query("SELECT * FROM stolen") == []
    made.query("DROP TABLE stolen")


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
