"""The programs of `tde pg install-bin` where the keystore opens by a provider and not by a file."""

from __future__ import annotations

import importlib.resources
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tde.errors import ClusterKeystoreError, KeystoreError, ProviderError
from tde.keystore import KeyState, Keystore, read_key_log, read_lives, remove_envelope
from tde.keystore.auto_opening import bind_auto_open, disable_all
from tde.keystore.lifecycle.changes import forget_place
from tde.postgres import install_bin_directory
from tde.postgres.server.binaries import STAND_IN_SETTINGS
from tde.postgres.server.interposer import find_interposer
from tde.postgres.server.os_user import run_as
from tests.conftest import ClusterFactory
from tests.keystore.cheap_passphrase import CHEAP_KDF, PASSPHRASE
from tests.keystore.planting import plant, plant_auto_open
from tests.postgres.programs import Programs

# Prints what it has got in its hand-over.
SHOWS_KEYS = '#!/bin/sh\nunset LD_PRELOAD\nexec cat "/proc/self/fd/$TDE_IO_KEYS_FD"\n'
TDE = Path(sys.executable).with_name("tde")


@pytest.fixture
def keystore(tmp_path: Path) -> Keystore:
    return Keystore.create(tmp_path / "ks", PASSPHRASE, kdf=CHEAP_KDF)


@pytest.fixture
def stand_in(keystore: Keystore, tmp_path: Path) -> Path:
    stock, directory = tmp_path / "stock", tmp_path / "bin"
    stock.mkdir()
    directory.mkdir()
    (stock / "postgres").touch()
    (stock / "pg_waldump").write_text(SHOWS_KEYS)
    (stock / "pg_waldump").chmod(0o755)
    write_settings(directory, keystore.path, stock, TDE)
    program = directory / "pg_waldump"
    program.write_bytes(importlib.resources.files("tde").joinpath("tde_program").read_bytes())
    program.chmod(0o755)
    return program


def write_settings(directory: Path, keystore: Path, stock: Path, tde: Path) -> None:
    server = (stock / "postgres").stat()
    settings = {
        "bindir": stock,
        "keystore": keystore,
        "tde": tde,
        "postgres_size": server.st_size,
        "postgres_mtime_ns": server.st_mtime_ns,
    }
    (directory / STAND_IN_SETTINGS).write_text("".join(f"{k}={v}\n" for k, v in settings.items()))


def run(program: Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([program], capture_output=True, cwd="/")


@pytest.mark.parametrize("level", ["full", "wal"])
def test_programs_get_the_same_keys_as_a_start(
    keystore: Keystore, stand_in: Path, tmp_path: Path, level: str
) -> None:
    bind_auto_open(keystore, "host-secret", {"file": str(tmp_path / "host.key")}, level)
    with keystore.hand_over(closed=level == "wal") as wanted:
        content = os.pread(wanted.fd, 8192, 0)
    ran = run(stand_in)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == content
    last = read_key_log(keystore.path).entries[-1]
    assert last.who["command"] == "tde keystore release"


def test_what_does_not_open_is_told_and_nothing_runs(
    keystore: Keystore, stand_in: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "host.key"
    bind_auto_open(keystore, "host-secret", {"file": str(secret)}, "full")
    secret.rename(tmp_path / "gone")
    ran = run(stand_in)
    assert (ran.returncode, ran.stdout) == (1, b"")
    assert b"host.key cannot be read" in ran.stderr
    assert b"HINT: See: tde keystore auto-open status" in ran.stderr
    write_settings(stand_in.parent, keystore.path, tmp_path / "stock", tmp_path / "nowhere")
    ran = run(stand_in)
    assert ran.returncode == 1
    assert b"could not run" in ran.stderr
    assert b"tde pg install-bin" in ran.stderr
    disable_all(keystore.path)
    ran = run(stand_in)
    assert b"auto-open enable" in ran.stderr
    assert ran.stdout == b""


def make_initdb(stand_in: Path, place: Path) -> tuple[Path, Path]:
    """Return an initdb of the directory, and what the stock one leaves when it was run."""
    ran = place / "initdb ran"
    stock = place / "stock" / "initdb"
    stock.write_text(SHOWS_KEYS.replace("exec", f"touch '{ran}'\nexec"))
    stock.chmod(0o755)
    program = stand_in.with_name("initdb")
    shutil.copy(stand_in, program)
    return program, ran


def test_initdb_uses_what_was_accepted_and_nothing_that_was_planted(
    keystore: Keystore, stand_in: Path, tmp_path: Path
) -> None:
    """The attack: an envelope with a command of whoever can write to the keystore."""
    initdb, ran = make_initdb(stand_in, tmp_path)
    planted = tmp_path / "planted ran"
    secret = tmp_path / "secret"
    secret.write_bytes(os.urandom(32))
    plant(keystore.path, {"command": f"touch '{planted}'"})  # In front of the next one.
    bind_auto_open(keystore, "secret-command", {"command": f"cat '{secret}'"}, "full")
    with keystore.hand_over() as wanted:
        content = os.pread(wanted.fd, 8192, 0)
    made = run(initdb)
    assert made.stdout == content
    assert b"provider a (secret-command) is passed over: it was not accepted" in made.stderr
    ran.unlink()
    remove_envelope(keystore.path, "auto-open")
    refused = run(initdb)
    assert (refused.returncode, refused.stdout) == (1, b"")
    assert b"tde keystore provider accept a --keystore" in refused.stderr
    assert not ran.exists()
    assert not planted.exists()


def test_initdb_makes_no_cluster_with_a_master_key_that_was_planted(
    any_binaries, keystore_factory, os_user, os_user_tmp_path: Path
) -> None:
    """The attack: whoever can write to the keystore lets it open by itself with a key of his own.

    Before it had keys, ``tde pg install-bin`` made them with that one.
    """
    keystore = keystore_factory("ks")
    genuine = keystore.enable_auto_open().read_bytes()
    file = keystore.path / "auto-open.key"
    directory = os_user_tmp_path / "bin"
    arguments = (directory, any_binaries, os_user)
    plant_auto_open(keystore.path)
    with (
        Keystore.open_automatically(keystore.path) as forged,
        pytest.raises(KeystoreError, match="was not opened by its passphrase"),
    ):
        install_bin_directory(*arguments, keystore=forged)
    assert not list((keystore.path / "keys").iterdir())
    install_bin_directory(*arguments, keystore=keystore)
    programs = Programs(directory, os_user_tmp_path, os_user)
    data = os_user_tmp_path / "data"
    said = programs.run("initdb", "-N", "-A", "trust", data, exit_code=1)
    assert "wal.key" in said
    assert not data.exists()
    file.write_bytes(genuine)
    programs.run("initdb", "-N", "-A", "trust", data)


def test_an_installation_needs_a_way_that_was_accepted(
    any_binaries, keystore_factory, os_user, os_user_tmp_path: Path
) -> None:
    keystore = keystore_factory("ks")
    plant(keystore.path, {"command": f"touch {os_user_tmp_path}/ran"})
    with pytest.raises(ProviderError, match="was not accepted on this machine"):
        install_bin_directory(os_user_tmp_path / "bin", any_binaries, os_user, keystore=keystore)
    assert not (os_user_tmp_path / "ran").exists()
    assert not (os_user_tmp_path / "bin").exists()


def test_keys_are_released_into_a_pipe_only(keystore: Keystore, tmp_path: Path) -> None:
    bind_auto_open(keystore, "host-secret", {"file": str(tmp_path / "host.key")}, "full")
    target = tmp_path / "out"
    with target.open("wb") as out:
        command = [TDE, "keystore", "release", "--keystore", keystore.path]
        ran = subprocess.run(command, stdout=out, stderr=subprocess.PIPE)
    assert ran.returncode == 5
    assert target.read_bytes() == b""


def test_a_real_program_reads_the_wal(
    any_binaries, encrypted_cluster_factory: ClusterFactory, stand_in: Path, tmp_path: Path
) -> None:
    """As the user of the tests, because the server's may not reach the environment of the tests."""
    cluster = encrypted_cluster_factory(any_binaries, start=False)
    own = tmp_path / "own"
    shutil.copytree(cluster.keystore.path, own)  # Belongs to who runs the tests.
    with Keystore.open(own, PASSPHRASE) as opened:
        bind_auto_open(opened, "host-secret", {"file": str(tmp_path / "host.key")}, "wal")
    write_settings(stand_in.parent, own, any_binaries.bindir, TDE)
    shutil.copy(find_interposer(), stand_in.parent)
    wal = cluster.data_directory / "pg_wal"
    segment = min(path for path in wal.iterdir() if len(path.name) == 24)
    ran = subprocess.run([stand_in, "-n", "2", segment], capture_output=True, text=True)
    assert "rmgr: " in ran.stdout, ran.stderr


def test_the_key_log_is_told_of_the_cluster_and_its_keys(
    any_binaries, encrypted_cluster_factory: ClusterFactory, stand_in: Path, tmp_path: Path
) -> None:
    """Without an entry nothing would watch the ages of keys of a cluster of its initdb."""
    cluster = encrypted_cluster_factory(any_binaries, start=False)
    own = tmp_path / "own"
    shutil.copytree(cluster.keystore.path, own)
    with Keystore.open(own, PASSPHRASE) as opened:
        bind_auto_open(opened, "host-secret", {"file": str(tmp_path / "host.key")}, "full")
        for place in read_lives(own).places:
            forget_place(opened, place.directory)
    write_settings(stand_in.parent, own, tmp_path / "stock", TDE)
    shutil.copy(find_interposer(), stand_in.parent)
    shutil.copy(tmp_path / "stock" / "pg_waldump", tmp_path / "stock" / "pg_checksums")
    program = shutil.copy(stand_in, stand_in.parent / "pg_checksums")
    link = tmp_path / "data with a space"
    link.symlink_to(cluster.data_directory)
    for count in (2, 0):
        before = len(read_key_log(own).entries)
        ran = subprocess.run([program, "-D", link], capture_output=True, cwd="/")
        assert ran.returncode == 0, ran.stderr
        events = [entry.event for entry in read_key_log(own).entries[before:]]
        assert events == ["open keystore", "serve cluster", "activate keys"][: count + 1]
    (place,) = read_lives(own).places
    assert place.directory == link
    states = {key.state for key in read_lives(own).keys}
    assert states == {KeyState.ACTIVE}


def test_servers_start_or_the_installation_is_refused(
    any_binaries, keystore_factory, os_user, os_user_tmp_path: Path
) -> None:
    keystore = keystore_factory("ks")
    secret = os_user_tmp_path / "host.key"
    bind_auto_open(keystore, "host-secret", {"file": str(secret)}, "full")
    directory = os_user_tmp_path / "bin"
    if not can_run_tde(os_user):
        with pytest.raises(ClusterKeystoreError, match="cannot run that"):
            install_bin_directory(directory, any_binaries, os_user, keystore=keystore)
        return
    made = install_bin_directory(directory, any_binaries, os_user, keystore=keystore)
    programs = Programs(made.path, os_user_tmp_path, os_user)
    data = os_user_tmp_path / "data"
    programs.run("initdb", "-N", "-k", "-A", "trust", data)
    programs.start(data)
    try:
        assert programs.sql("SELECT 1") == "1"
    finally:
        programs.run("pg_ctl", "stop", "-m", "immediate", "-D", data)


def can_run_tde(os_user) -> bool:
    try:
        return run_as(os_user, [TDE, "--version"]).returncode == 0
    except OSError:
        return False


def test_closed_descriptors_and_an_ignored_signal_are_no_obstacle(
    keystore: Keystore, stand_in: Path, tmp_path: Path
) -> None:
    bind_auto_open(keystore, "host-secret", {"file": str(tmp_path / "host.key")}, "full")
    output = tmp_path / "output"
    # The shell's own trap is inherited as an ignored signal.
    script = f"trap '' CHLD; {stand_in} > {output} <&- 2>&-"
    assert subprocess.run(["sh", "-c", script]).returncode == 0
    with keystore.hand_over() as wanted:
        assert output.read_bytes() == os.pread(wanted.fd, 8192, 0)
    (stand_in.parent.parent / "stock/pg_waldump").write_text(
        '#!/bin/sh\ntest "$TDE_IO_KEYS_FD" -gt 2\n'
    )
    script = f"{stand_in} <&- >&- 2>&-"
    assert subprocess.run(["sh", "-c", script]).returncode == 0
