"""Files of a data directory that somebody put there: links, pipes, devices, and names that lie.

The attack: whoever may write to the volume, and has no key, has tde read what is not the server's,
wait for ever, or write over keys. tde often runs as root, and the server's user owns the directory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import RunningCluster
from tests.keystore.cheap_passphrase import PASSPHRASE
from tests.postgres.cluster_copies import configure

TDE = Path(sys.executable).with_name("tde")
OPTIONS = "-c listen_addresses='' -c fsync=off -c shared_buffers=16MB"
PATIENCE = 100  # Seconds; a command that waits for a pipe never ends.
THEFT = "archive_command = 'cp /etc/keystore/auto-open.key /srv/loot'"

Tde = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def made(encrypted_cluster_factory, any_binaries) -> RunningCluster:
    made = encrypted_cluster_factory(any_binaries, start=False)
    made.keystore.close()
    return made


@pytest.fixture
def tde(made, any_binaries) -> Tde:
    """Run a command of ``tde pg`` unattended."""

    def run(verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        if verb in ("start", "restart", "accept"):
            arguments = ("--passphrase-fd", "0", *arguments)
        if verb == "start":
            arguments = ("-o", OPTIONS, *arguments)
        bindir = str(any_binaries.bindir)
        where = ["-D", str(made.data_directory), "--bindir", bindir]
        result = subprocess.run(
            [TDE, "pg", verb, *where, *arguments],
            input=PASSPHRASE.decode(),
            capture_output=True,
            text=True,
            errors="surrogateescape",
            env={**os.environ, "COLUMNS": "200"},
            timeout=PATIENCE,
            check=False,
        )
        assert "Traceback" not in result.stderr, result.stderr
        return result

    return run


def own(made: RunningCluster, *paths: Path) -> None:
    """Give paths to the server's user, who is the attacker or whose storage is his."""
    status = made.data_directory.stat()
    for path in paths:
        os.chown(path, status.st_uid, status.st_gid, follow_symlinks=False)


def write_options(made: RunningCluster, text: str) -> None:
    """Write what the last start is said to have been, as the server's user."""
    options = made.data_directory / "postmaster.opts"
    options.write_text(text)
    own(made, options)


def findings(shown: subprocess.CompletedProcess[str]) -> dict[str, str]:
    found = json.loads(shown.stdout)["findings"]
    return {finding["check"]: finding["verdict"] for finding in found}


def new_lines(tde: Tde) -> list[str]:
    lines: list[str] = json.loads(tde("status", "--json").stdout)["new_lines"]
    return lines


@pytest.mark.skipif(os.geteuid() != 0, reason="only root reads what the server's user may not")
def test_a_link_to_a_secret_of_root_gives_nothing_away(made, tde, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text('postgres "-c" "cluster_name=canary-of-root"\n')
    secret.chmod(0o600)
    options = made.data_directory / "postmaster.opts"
    options.symlink_to(secret)
    for verb in ("restart", "start", "status"):
        shown = tde(verb)
        assert "canary-of-root" not in shown.stdout + shown.stderr
        assert f"{options} is not used" in shown.stdout + shown.stderr
    assert made.cluster.pid is None
    assert secret.read_text().startswith("postgres")
    # A second name of the file is as good as a link, where the kernel lets users make one.
    options.unlink()
    made_here = made.data_directory.parent / "secret"
    made_here.write_text(secret.read_text())
    options.hardlink_to(made_here)
    shown = tde("restart")
    assert "belongs to user 0" in shown.stderr
    assert made.cluster.pid is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root reads what the server's user may not")
def test_a_configuration_that_the_server_may_not_read_is_not_read_for_it(made, tde, tmp_path):
    """A configuration file may be a link; root follows it no further than the server's user."""
    secret = tmp_path / "secret.conf"
    secret.write_text("archive_command = 'canary-of-root'\n")
    secret.chmod(0o600)
    write_options(made, f'postgres "-c" "config_file={secret}"\n')
    configure(made, [f"include '{secret}'", THEFT])
    for verb in ("status", "doctor"):
        shown = tde(verb)
        assert "canary-of-root" not in shown.stdout + shown.stderr
        assert "auto-open.key" in shown.stdout


@pytest.mark.parametrize(
    "name",
    [
        "postmaster.opts",
        "postmaster.pid",
        "tde.json",
        "tde.keymap",
        "postgresql.conf",
        "PG_VERSION",
    ],
)
def test_a_pipe_holds_nobody_up(made, tde, name):
    path = made.data_directory / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    own(made, path)
    shown = tde("start")
    assert shown.returncode != 0
    assert name in shown.stderr
    shown = tde("status")
    assert name == "postgresql.conf" or name in shown.stdout + shown.stderr
    shown = tde("doctor", "--json")
    assert shown.returncode != 0 or name == "tde.keymap"  # Which status and start look at.
    if name != "PG_VERSION":
        assert findings(shown)["data_directory"] == "ok"
    path.unlink()


def test_a_device_that_never_ends_is_not_read(made, tde):
    write_options(made, 'postgres "-c" "config_file=/dev/zero"\n')
    configure(made, [THEFT])
    (line,) = new_lines(tde)
    assert "archive_command" in line
    assert "auto-open.key" in tde("doctor").stdout


def test_nonsense_in_one_file_does_not_hide_what_doctor_finds_elsewhere(made, tde):
    (made.data_directory / "pg_tblspc/²").symlink_to("/nowhere")
    (made.data_directory / "current_logfiles").write_text("stderr\n\nstderr \n")
    (made.data_directory / "postmaster.pid").write_bytes(b"9" * 5000 + b"\n\xff\n")
    own(made, made.data_directory / "current_logfiles")
    shown = tde("doctor", "--json")
    assert {"encryption", "log_access", "new_lines"} <= set(findings(shown))
    assert findings(shown)["encryption"] == "ok"
    assert json.loads(tde("status", "--json").stdout)["keystore_problem"] == ""


@pytest.mark.parametrize("planted", ["link", "hard link"])
def test_the_log_never_goes_into_the_keystore(made, tde, planted):
    """pg_ctl appends to the log as the server's user, who may write to the keystore."""
    key = made.keystore.path / "keys/wal.key"
    before = key.read_bytes()
    made.cluster.default_log.unlink(missing_ok=True)
    beside = made.data_directory.with_name(f"{made.data_directory.name}.log")
    inside = made.data_directory / "server.log"
    if planted == "link":
        beside.symlink_to("/nowhere/log")
        inside.symlink_to(key)
        own(made, beside, inside)
    else:
        beside.hardlink_to(key)
        inside.hardlink_to(key)
    shown = tde("start")
    assert shown.returncode != 0
    assert str(beside) in shown.stderr
    assert key.read_bytes() == before
    shown = tde("start", "--log", str(inside))
    assert shown.returncode != 0
    assert "into the keystore" in shown.stderr
    assert key.read_bytes() == before
    assert made.cluster.pid is None


@pytest.mark.parametrize(
    "lines",
    [
        ["external_pid_file = '{keys}/wal.key'"],
        ["logging_collector = on", "log_directory = '{keys}'", "log_filename = 'wal.key'"],
        ["logging_collector = on", "log_filename = '../{relative}/wal.key'"],
    ],
    ids=["pid file", "log directory", "log name"],
)
def test_no_setting_has_the_server_write_into_the_keystore(made, tde, lines):
    keys = made.keystore.path / "keys"
    before = (keys / "wal.key").read_bytes()
    relative = os.path.relpath(keys, made.data_directory)
    configure(made, [line.format(keys=keys, relative=relative) for line in lines])
    shown = tde("start")
    assert shown.returncode != 0
    assert "into the keystore" in shown.stderr
    assert (keys / "wal.key").read_bytes() == before
    assert made.cluster.pid is None


def test_the_guard_is_appended_to_nothing_but_a_configuration(made, tde):
    """postmaster.opts names the file, and lies beside the data."""
    key = made.keystore.path / "keys/wal.key"
    other = made.data_directory.parent / "mine.conf"
    other.write_text("# Another cluster's, or a file of quite another program.\n")
    linked = made.data_directory / "link.conf"
    linked.symlink_to(key)
    own(made, other, linked)
    before = {path: path.read_bytes() for path in (key, other)}
    for path in (key, other, linked):
        write_options(made, f'postgres "-D" "{made.data_directory}" "-c" "config_file={path}"\n')
        shown = tde("start")
        assert shown.returncode == 0, shown.stderr
        assert "has no guard" in shown.stderr
        assert {path: path.read_bytes() for path in before} == before
        assert tde("stop").returncode == 0


def test_a_file_name_steers_neither_the_terminal_nor_the_log(made, tde):
    name = "z\x1b[9A\x1b[J\x1b[8m\nnot a line of its own.conf"
    included = made.data_directory / name
    included.write_text(f"{THEFT}\n")
    own(made, included)
    escaped = name.replace("\x1b", "\\033").replace("\n", "\\n")
    configure(made, [f"include '{escaped}'"])
    for verb in ("start", "status", "doctor", "accept"):
        shown = tde(verb)
        text = shown.stdout + shown.stderr
        assert r"z\x1b[9A\x1b[J\x1b[8m" in text, verb
        assert "\x1b" not in text
        assert not [line for line in text.splitlines() if line.startswith("not a line")]
    assert "\x1b" not in made.cluster.default_log.read_text(errors="replace")


def test_names_in_errors_do_not_steer_the_terminal(made, tde):
    write_options(made, 'postgres "-c" "config_file=a\x1b[2Jb"\n')
    (made.data_directory / "postgresql.conf").unlink()
    shown = tde("start")
    assert shown.returncode != 0
    assert r"a\x1b[2Jb" in shown.stderr
    assert "\x1b" not in shown.stderr


def test_a_line_with_a_long_name_does_not_stop_the_start(made, tde):
    configure(made, [f"a.{'x' * 200_000}command = 'x'", THEFT])
    shown = tde("start")
    assert shown.returncode == 0, shown.stderr[:2000]
    assert "auto-open.key" in shown.stderr
    log = made.cluster.default_log.read_text()
    assert "auto-open.key" in log
    assert max(map(len, log.splitlines())) < 2000


def test_another_data_directory_is_refused_and_named(made, tde):
    """The cluster was moved away, and what is left begins a server there."""
    evil = made.data_directory / "evil"
    evil.mkdir(mode=0o700)
    (evil / "postgresql.auto.conf").write_text(f"{THEFT}\n")
    own(made, evil, evil / "postgresql.auto.conf")
    with (made.data_directory / "postgresql.conf").open("a") as file:
        file.write(f"data_directory = '{evil}'\n")
    lines = new_lines(tde)
    assert any("data_directory" in line for line in lines)
    assert any("archive_command" in line and "evil" in line for line in lines)
    shown = tde("start")
    assert shown.returncode != 0
    assert f"data_directory = '{evil}'" in shown.stderr
    assert made.cluster.pid is None


@pytest.mark.parametrize("argument", ['"-D" "{evil}"', '"-eD{evil}"', '"--data-directory={evil}"'])
def test_another_data_directory_in_the_options_is_refused_and_named(made, tde, argument):
    evil = made.data_directory / "evil"
    evil.mkdir(mode=0o700)
    (evil / "postgresql.conf").write_text(f"{THEFT}\n")
    own(made, evil, evil / "postgresql.conf")
    write_options(made, f'postgres "-D" "{made.data_directory}" {argument.format(evil=evil)}\n')
    lines = new_lines(tde)
    assert any("data_directory" in line for line in lines)
    assert any("archive_command" in line and "evil" in line for line in lines)
    shown = tde("restart")
    assert shown.returncode != 0
    assert str(evil) in shown.stderr
    assert made.cluster.pid is None


@pytest.mark.parametrize(
    "argument",
    [
        '"-ec" "archive_command=theft %p"',
        '"-ecarchive_command=theft %p"',
        '"-e-archive-command=theft %p"',
        '"-e-" "archive_command=theft %p"',
        '"-c" "config_file=CONFIGURATION" "-Fic" "Archive-Command=theft %p"',
    ],
)
def test_options_are_named_in_every_form_that_postgres_takes(made, tde, argument):
    argument = argument.replace("CONFIGURATION", str(made.data_directory / "postgresql.conf"))
    write_options(
        made, f'postgres "-D" "{made.data_directory}" "-c" "listen_addresses=" {argument}\n'
    )
    (line,) = new_lines(tde)
    assert "archive_command = 'theft %p'" in line
    assert "archive_command = 'theft %p'" in tde("restart").stderr
    assert made.query("SHOW archive_command") in ([("theft %p",)], [("(disabled)",)])


def test_a_file_that_an_option_hides_is_looked_at(made, tde):
    hidden = made.data_directory.parent / "hidden.conf"
    hidden.write_text(f"data_directory = '{made.data_directory}'\n{THEFT}\n")
    own(made, hidden)
    write_options(made, f'postgres "-ec" "config_file={hidden}"\n')
    (line,) = new_lines(tde)
    assert line.startswith(f"{hidden}:2: archive_command")


def test_an_option_that_is_not_understood_is_named(made, tde):
    write_options(made, 'postgres "-Z" "word"\n')
    assert [line.partition(": ")[2] for line in new_lines(tde)] == [
        "argument = '-Z'",
        "argument = 'word'",
    ]
