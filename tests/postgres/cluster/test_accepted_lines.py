"""Lines that run a program or load a library, and were not there at the last start by hand.

The attack: who may write to the volume, and has no key, adds archive_command to a file.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tde.keystore import KeyOwner, Keystore
from tests.conftest import RunningCluster
from tests.keystore.cheap_passphrase import PASSPHRASE
from tests.postgres.cluster_copies import configure
from tests.terminal import run_on_terminal

TDE = Path(sys.executable).with_name("tde")
OPTIONS = "-c listen_addresses='' -c fsync=off -c shared_buffers=16MB"
THEFT = "archive_command = 'cp /etc/keystore/auto-open.key /srv/loot'"

Tde = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def made(encrypted_cluster_factory, any_binaries) -> RunningCluster:
    made = encrypted_cluster_factory(any_binaries, start=False)
    made.keystore.close()
    return made


def command(made: RunningCluster, verb: str, *arguments: str) -> list[str]:
    bindir = ["--bindir", str(made.cluster.binaries.bindir)]
    if verb in ("start", "accept", "restart"):
        arguments = ("--passphrase-fd", "0", *arguments)
    if verb == "start":
        arguments = ("-o", OPTIONS, *arguments)
    return [str(TDE), "pg", verb, "-D", str(made.data_directory), *bindir, *arguments]


@pytest.fixture
def tde(made) -> Tde:
    """Run a command of ``tde pg`` unattended: the passphrase comes from a descriptor."""

    def run(verb: str, *arguments: str, exit_code: int = 0) -> subprocess.CompletedProcess[str]:
        result = subprocess.run(
            command(made, verb, *arguments),
            input=PASSPHRASE.decode(),
            capture_output=True,
            text=True,
            env={**os.environ, "COLUMNS": "200"},
            timeout=120,
            check=False,
        )
        assert result.returncode == exit_code, result.stdout + result.stderr
        return result

    return run


def start_by_hand(made: RunningCluster) -> str:
    """Type the passphrase on a terminal, and return what it showed."""
    typed = [word for word in command(made, "start") if word not in ("--passphrase-fd", "0")]
    shown, exit_code = run_on_terminal(typed, [PASSPHRASE + b"\n"])
    assert exit_code == 0, shown
    return shown


def new_lines(tde: Tde, *, running: bool = True) -> list[str]:
    shown = tde("status", "--json", exit_code=0 if running else 3).stdout
    lines: list[str] = json.loads(shown)["new_lines"]
    return lines


def test_an_unattended_start_names_the_line_and_starts(made, tde):
    configure(made, [THEFT])
    file = made.data_directory / "postgresql.auto.conf"
    number = file.read_text().splitlines().index(THEFT) + 1
    place = f"{file}:{number}: archive_command = 'cp /etc/keystore/auto-open.key"
    (before,) = new_lines(tde, running=False)
    assert before.startswith(place)
    started = tde("start")
    assert place in started.stderr
    assert "tde pg accept" in started.stderr
    assert place in made.cluster.default_log.read_text()
    assert made.cluster.pid is not None
    shown = tde("status").stdout
    assert "New lines" in shown
    assert place in shown
    # Nothing of an unattended start is accepted, however often it happens.
    assert place in tde("restart").stderr
    assert len(new_lines(tde)) == 1


def test_doctor_names_the_line_and_its_remedy_works(made, tde):
    configure(made, [THEFT])
    shown = tde("doctor", "--json", exit_code=1).stdout
    (found,) = [f for f in json.loads(shown)["findings"] if f["check"] == "new_lines"]
    assert found["verdict"] == "problem"
    assert "archive_command = 'cp /etc/keystore" in found["detail"]
    remedy = f"tde pg accept -D {made.data_directory}"
    assert remedy in found["remedy"]
    assert "Accepted: " in tde("accept").stdout
    shown = tde("doctor", "--json", exit_code=0).stdout
    (found,) = [f for f in json.loads(shown)["findings"] if f["check"] == "new_lines"]
    assert found["verdict"] == "ok"
    assert "archive_command" not in tde("start").stderr


def test_a_start_by_hand_names_the_line_and_accepts_it(made, tde):
    configure(made, [THEFT, "shared_preload_libraries = 'plpgsql'"])
    shown = start_by_hand(made)
    assert "archive_command" in shown
    assert "plpgsql" in shown
    assert new_lines(tde) == []
    assert "archive_command" not in tde("restart").stderr
    # Another value is another line, wherever it stands.
    made.query("ALTER SYSTEM SET archive_command = 'cp %p /elsewhere/%f'")
    (line,) = new_lines(tde)
    assert "/elsewhere/" in line
    # What was away at the last start by hand is new when it comes back.
    made.query("ALTER SYSTEM RESET archive_command")
    tde("stop")
    assert "archive_command" not in start_by_hand(made)
    configure(made, [THEFT])
    (line,) = new_lines(tde)
    assert "archive_command" in line


def test_nothing_that_lies_beside_the_data_makes_a_line_accepted(made, tde):
    """The record is in the keystore; altered there, it counts for nothing."""
    configure(made, [THEFT])
    tde("accept")
    assert new_lines(tde, running=False) == []
    (record,) = made.keystore.path.glob("accepted-lines.*")
    assert not list(made.data_directory.glob("*accepted*"))
    content = bytearray(record.read_bytes())
    assert b"archive_command" not in content
    content[40] ^= 1
    record.write_bytes(content)
    started = tde("start").stderr
    assert "damaged or was altered" in started
    assert "archive_command" in started
    record.unlink()
    assert len(new_lines(tde)) == 1


def test_options_of_the_last_start_are_looked_at(made, tde):
    """A restart takes them from postmaster.opts, which lies beside the data."""
    tde("start")
    options = made.data_directory / "postmaster.opts"
    options.write_text(options.read_text().rstrip() + ' "-c" "archive_command=theft %p"\n')
    (line,) = new_lines(tde)
    assert str(options) in line
    assert "archive_command = 'theft %p'" in line
    assert "theft" in tde("restart").stderr


def test_debians_file_is_looked_at_though_nothing_names_it(
    made, tde, os_user_tmp_path, monkeypatch
):
    """pg_ctlcluster names it at the next start; before, only its content tells whose it is."""
    # Below a directory that the server's user may read, as /etc/postgresql is.
    monkeypatch.setenv("PG_CLUSTER_CONF_ROOT", str(os_user_tmp_path))
    file = os_user_tmp_path / "15" / "main" / "postgresql.conf"
    file.parent.mkdir(parents=True)
    file.write_text(f"data_directory = '{made.data_directory}'\n{THEFT}\n")
    (line,) = new_lines(tde, running=False)
    assert line.startswith(f"{file}:2: archive_command")
    assert f"{file}:2" in tde("start").stderr


def test_a_missing_file_in_postmaster_opts_hides_no_other_file(made, tde):
    """The attack: whoever adds the line also names a file that does not exist."""
    configure(made, [THEFT])
    options = made.data_directory / "postmaster.opts"
    options.write_text('postgres "-c" "config_file=/nowhere/postgresql.conf"\n')
    (line,) = new_lines(tde, running=False)
    assert "archive_command" in line
    options.write_text(f'postgres "-c" "config_file=/{"x" * 5000}"\n')
    (line,) = new_lines(tde, running=False)
    assert "archive_command" in line


def test_the_record_is_as_the_format_says(made, tde):
    """docs/format.md, section 6, written a second time."""
    configure(made, ["Archive_Command = 'it''s %p'"])
    tde("accept")
    (record,) = made.keystore.path.glob("accepted-lines.*")
    place = hashlib.sha256(os.fsencode(made.data_directory.resolve())).hexdigest()
    assert record.name == f"accepted-lines.{place[:32]}"
    assert record.stat().st_mode & 0o777 == 0o600
    content = record.read_bytes()
    assert content[:16] == b"TDELIN\x00\x01" + bytes(8)
    line = hashlib.sha256(content[16:32] + b"archive_command\x00it's %p").digest()
    assert content[32:64] == line
    with Keystore.open(made.keystore.path, PASSPHRASE) as opened:
        wal = bytes(opened.unwrap_key(KeyOwner.wal()))
    key = HKDF(SHA256(), 32, salt=None, info=b"tde accepted lines\x00").derive(wal)
    assert content[64:] == hmac.digest(key, record.name.encode() + content[:64], "sha256")
