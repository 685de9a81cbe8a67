"""`tde keystore auto-open`: what it can be bound to, and that nothing else opens the keystore."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tde.cli.app import app
from tde.keystore import read_key_log

runner = CliRunner(env={"TDE_KEYSTORE": None, "COLUMNS": "200", "NO_COLOR": "1"})


def run(*arguments: object, code: int = 0) -> Any:
    result = runner.invoke(app, ["keystore", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


def bind(keystore: Path, passphrase: list[str], binding: str, *more: str, code: int = 0) -> Any:
    command = ("auto-open", "enable", "--bind", binding, "-k", keystore, *passphrase, *more)
    return run(*command, code=code)


def ways(keystore: Path, *, code: int = 0) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(
        run("auto-open", "status", "-k", keystore, "--json", code=code).stdout
    )["ways"]
    return found


def opens_by_itself(keystore: Path) -> bool:
    result = runner.invoke(app, ["keystore", "list", "-k", str(keystore)], input="")
    assert result.exit_code in (0, 5), result.output
    return result.exit_code == 0


def test_host_secret_is_made_and_opens_the_keystore(
    keystore: Path, passphrase: list[str], place: Path
) -> None:
    assert run("auto-open", "status", "-k", keystore).stdout.startswith("Off:")
    secret = place / "elsewhere" / "host.key"
    secret.parent.mkdir(mode=0o700)
    run("auto-open", "enable", "-k", keystore, *passphrase)
    said = bind(keystore, passphrase, f"host-secret:{secret}").stdout
    assert f"bound to host-secret file={secret}" in said
    # What is bound to nothing would make the binding worth nothing.
    assert not (keystore / "auto-open.key").exists()
    assert secret.stat().st_mode & 0o777 == 0o600
    assert len(secret.read_bytes()) == 32
    assert opens_by_itself(keystore)
    last = read_key_log(keystore).entries[-1]
    assert (last.event, last.details["with"]) == (
        "open keystore",
        "provider auto-open (host-secret)",
    )
    (way,) = ways(keystore)
    assert (way["level"], way["opens"]) == ("full", True)
    # Both lie in one temporary directory here, and that is said.
    assert "same file system" in way["thief_of"]["the disk"]
    assert list(way["thief_of"]) == ["the disk", "a backup", "the running machine"]


def test_without_the_host_secret_the_keystore_is_closed(
    keystore: Path, passphrase: list[str], place: Path
) -> None:
    secret = place / "host.key"
    bind(keystore, passphrase, f"host-secret:{secret}")
    right = secret.read_bytes()
    for content, mode, says in (
        (None, 0, "No such file"),
        (os.urandom(32), 0o600, "another secret"),
        (right[:-1], 0o600, "gives 31 bytes"),
        (right, 0o644, "open to other users"),
    ):
        secret.unlink(missing_ok=True)
        if content is not None:
            secret.write_bytes(content)
            secret.chmod(mode)
        (way,) = ways(keystore, code=1)
        assert says in way["problem"]
        assert way["remedy"]
        assert not opens_by_itself(keystore)
        # The passphrase always does.
        run("list", "-k", keystore, *passphrase)
    secret.chmod(0o600)
    assert opens_by_itself(keystore)


def test_a_copy_of_the_keystore_is_of_no_use_without_the_secret(
    keystore: Path, passphrase: list[str], place: Path
) -> None:
    secret = place / "host.key"
    bind(keystore, passphrase, f"host-secret:{secret}")
    run("backup", place / "stolen", "-k", keystore)
    assert opens_by_itself(place / "stolen")
    secret.rename(place / "gone")
    assert not opens_by_itself(place / "stolen")
    held = secret.with_name("gone").read_bytes()
    assert all(
        held not in file.read_bytes() for file in (place / "stolen").rglob("*") if file.is_file()
    )


def test_a_secret_that_would_travel_with_the_keystore_is_refused(
    keystore: Path, passphrase: list[str], place: Path
) -> None:
    data = place / "data"
    data.mkdir()
    (data / "PG_VERSION").write_text("18\n")
    link = place / "link"
    link.symlink_to(keystore / "keys")
    for file in (keystore / "host.key", keystore / "keys/host.key", data / "x.key", link / "a"):
        said = bind(keystore, passphrase, f"host-secret:{file}", code=5).output
        assert "would be in the" in said, file
        assert not file.exists()
    assert "absolute" in bind(keystore, passphrase, "host-secret:host.key", code=5).output
    assert ways(keystore) == []


def test_nothing_is_bound_twice_and_disable_removes_all(
    keystore: Path, passphrase: list[str], place: Path
) -> None:
    bind(keystore, passphrase, f"host-secret:{place / 'host.key'}")
    said = bind(keystore, passphrase, f"host-secret:{place / 'other.key'}", code=5).output
    assert "auto-open disable" in said
    assert not (place / "other.key").exists()
    command = f"command:cat {place / 'host.key'}"
    run("auto-open", "enable", "-k", keystore, *passphrase)
    names = [way["name"] for way in ways(keystore)]
    assert names == [None, "auto-open"]
    said = run("auto-open", "disable", "-k", keystore).output
    assert "auto-open.key, auto-open" in said
    assert ways(keystore) == []
    assert not opens_by_itself(keystore)
    assert "did not open" in run("auto-open", "disable", "-k", keystore).output
    bind(keystore, passphrase, command)
    assert opens_by_itself(keystore)


@pytest.mark.parametrize("binding", ["", "host-secret", "host-secret:", "tpm", "tpm2:x=1", "x:y"])
def test_what_is_no_binding_is_told(keystore: Path, passphrase: list[str], binding: str) -> None:
    said = bind(keystore, passphrase, binding, code=5).output
    assert "is nothing that a keystore can be bound to" in said


def test_a_command_that_is_away_and_one_that_refuses(
    keystore: Path, passphrase: list[str], place: Path
) -> None:
    secret, answer = place / "far", place / "answer"
    secret.write_bytes(os.urandom(48))
    answer.write_text("0")
    bind(keystore, passphrase, f"command:cat {secret}; exit $(cat {answer})")
    assert opens_by_itself(keystore)
    for status in ("75", "1"):
        answer.write_text(status)
        (way,) = ways(keystore, code=1)
        assert f"exit status {status}" in way["problem"]
        assert not opens_by_itself(keystore)


def test_credential_of_systemd(
    keystore: Path, passphrase: list[str], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = bind(keystore, passphrase, "credential:tde", code=5).output
    assert "CREDENTIALS_DIRECTORY is not set" in said
    credentials = place / "credentials"
    credentials.mkdir(mode=0o700)
    (credentials / "tde").write_bytes(os.urandom(32))
    (credentials / "tde").chmod(0o400)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    bind(keystore, passphrase, "credential:tde")
    assert opens_by_itself(keystore)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    assert not opens_by_itself(keystore)
    assert "no name of a credential" in bind(keystore, passphrase, "credential:../x", code=5).output


def test_rotation_keeps_the_binding(keystore: Path, passphrase: list[str], place: Path) -> None:
    bind(keystore, passphrase, f"host-secret:{place / 'host.key'}", "--level", "wal")
    run("rotate", "-k", keystore, *passphrase)
    (way,) = ways(keystore)
    assert (way["opens"], way["level"]) == (True, "wal")


def test_level_wal_opens_for_servers_only(
    keystore: Path, passphrase: list[str], place: Path
) -> None:
    bound = f"host-secret:{place / 'host.key'}"
    assert (
        "needs --bind"
        in run("auto-open", "enable", "--level", "wal", "-k", keystore, *passphrase, code=2).output
    )
    bind(keystore, passphrase, bound, "--level", "wal")
    result = runner.invoke(app, ["keystore", "list", "-k", str(keystore)], input="")
    assert result.exit_code == 5
    assert "level wal, which is for servers only" in result.output
    # Nor does it give itself a higher level.
    run("auto-open", "enable", "-k", keystore, code=5)
    said = run("list", "--provider", "auto-open", "-k", keystore, code=5).output
    assert "opens the keystore at level wal" in said
    assert "tde keystore open -D" in run("auto-open", "status", "-k", keystore).stdout


# The TPM is Debian's software TPM.


class SoftwareTpm:
    """A software TPM on a Unix socket; ``tcti`` is the way to it."""

    def __init__(self, place: Path) -> None:
        self._state = place / "tpm"
        self._state.mkdir(mode=0o700)
        self._socket = place / "tpm.socket"
        self.tcti = f"swtpm:path={self._socket}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [
                *("swtpm", "socket", "--tpm2", "--tpmstate", f"dir={self._state}"),
                *("--server", f"type=unixio,path={self._socket}"),
                *("--ctrl", f"type=unixio,path={self._socket}.ctrl"),
                *("--flags", "not-need-init,startup-clear"),
            ]
        )
        until = time.monotonic() + 20
        while not self._socket.exists():
            assert self._process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.01)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None
        self._socket.unlink(missing_ok=True)

    def clear(self) -> None:
        """Make it another TPM."""
        self.stop()
        shutil.rmtree(self._state)
        self._state.mkdir(mode=0o700)
        self.start()

    def extend(self, register: int) -> None:
        value = f"{register}:sha256={'5a' * 32}"
        subprocess.run(["tpm2_pcrextend", "-T", self.tcti, value], check=True)


@pytest.fixture
def tpm(place: Path) -> Iterator[SoftwareTpm]:
    if shutil.which("swtpm") is None or shutil.which("tpm2_create") is None:
        pytest.skip("apt-get install swtpm tpm2-tools")
    made = SoftwareTpm(place)
    made.start()
    yield made
    made.stop()


def test_tpm_opens_the_keystore_on_its_machine_only(
    keystore: Path, passphrase: list[str], tpm: SoftwareTpm
) -> None:
    said = bind(keystore, passphrase, f"tpm2:tcti={tpm.tcti}").stdout
    assert "stays in the machine" in said
    assert opens_by_itself(keystore)
    tpm.stop()  # A disk in a machine without a TPM.
    (way,) = ways(keystore, code=1)
    assert "there is no TPM" in way["problem"]
    assert not opens_by_itself(keystore)
    tpm.start()  # After a restart of the machine it has the same seed.
    assert opens_by_itself(keystore)
    tpm.clear()
    (way,) = ways(keystore, code=1)
    assert "this TPM has not sealed the key" in way["problem"]
    assert not opens_by_itself(keystore)


def test_without_a_tcti_only_a_device_of_this_machine_is_the_tpm(
    keystore: Path, passphrase: list[str], tpm: SoftwareTpm, place: Path, monkeypatch
) -> None:
    """Any user can run a software TPM, where tpm2-tools look for one or are told to."""
    tools, asked = place / "tools", place / "asked"
    tools.mkdir()
    for name in ("createprimary", "flushcontext"):
        script = tools / f"tpm2_{name}"
        script.write_text(
            f'#!/bin/sh\necho "$1 $2" >> {asked}\necho "tcti: no such device" >&2\nexit 1\n'
        )
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("TPM2TOOLS_TCTI", tpm.tcti)
    assert "there is no TPM" in bind(keystore, passphrase, "tpm2:pcrs=7", code=5).output
    (way,) = set(asked.read_text().splitlines())
    assert re.fullmatch(r"-T device:/dev/tpm(rm)?0", way)


def test_tpm_refuses_when_the_machine_has_started_otherwise(
    keystore: Path, passphrase: list[str], tpm: SoftwareTpm
) -> None:
    bind(keystore, passphrase, f"tpm2:pcrs=7+14;tcti={tpm.tcti}")
    assert opens_by_itself(keystore)
    tpm.extend(9)
    assert opens_by_itself(keystore)
    tpm.extend(14)
    (way,) = ways(keystore, code=1)
    assert "registers (PCRs) are not as they were" in way["problem"]
    assert not opens_by_itself(keystore)


def test_the_key_that_the_tpm_seals_goes_through_pipes_only(
    keystore: Path, passphrase: list[str], tpm: SoftwareTpm, place: Path, monkeypatch
) -> None:
    """Every program of tpm2-tools leaves its files to be looked at, and its arguments."""
    tools, seen = place / "tools", place / "seen"
    tools.mkdir()
    seen.mkdir()
    for name in ("createprimary", "create", "createpolicy", "load", "unseal", "flushcontext"):
        real = shutil.which(f"tpm2_{name}")
        script = tools / f"tpm2_{name}"
        script.write_text(
            f'#!/bin/sh\nprintf "%s\\n" "$@" >> {seen}/arguments\n'
            f'cat > {seen}/in.$$\n{real} "$@" < {seen}/in.$$ > {seen}/out.$$\nstatus=$?\n'
            f"cat {seen}/out.$$\n"
            'for file; do case "$file" in /dev/shm/*) '
            f'test ! -e "$file" || cat "$file" >> {seen}/files;; esac; done\n'
            "exit $status\n"
        )
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    bind(keystore, passphrase, f"tpm2:tcti={tpm.tcti}")
    assert opens_by_itself(keystore)
    keys = {file.read_bytes() for file in seen.glob("out.*") if file.stat().st_size == 32}
    (key,) = keys
    for name in ("arguments", "files"):
        content = (seen / name).read_bytes()
        assert content
        assert key not in content
        assert key.hex().encode() not in content
    places = {line for line in (seen / "arguments").read_text().split() if line[:9] == "/dev/shm/"}
    assert places
    assert not any(Path(place).parent.exists() for place in places)
