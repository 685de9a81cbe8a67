"""What whoever can write to a keystore gets by envelopes that he puts there, knowing no key."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tde.algorithms import Algorithm
from tde.cli.app import app
from tde.errors import KeystoreError
from tde.keystore import KeyOwner, Keystore, list_providers
from tde.keystore.opening import open_keystore
from tde.postgres import server_os_user
from tests.keystore.cheap_passphrase import PASSPHRASE
from tests.keystore.planting import forge, plant

runner = CliRunner(env={"TDE_KEYSTORE": None, "COLUMNS": "200", "NO_COLOR": "1"})


@pytest.fixture(autouse=True)
def accepted(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this machine keeps what was accepted on it; another directory is another machine."""
    monkeypatch.setenv("TDE_ACCEPTED", str(place / "accepted"))
    return place / "accepted"


def run(*arguments: object, code: int = 0) -> Any:
    result = runner.invoke(app, ["keystore", *map(str, arguments)], input="")
    assert result.exit_code == code, result.output
    return result


@pytest.mark.parametrize(
    ("type_", "names"),
    [
        ("secret-command", {"command": "touch {}"}),
        ("command", {"wrap-command": "true", "unwrap-command": "touch {}"}),
        ("pkcs11", {"module": "/x.so", "token": "t", "key": "k", "pin-command": "touch {}"}),
        ("vault", {"address": "https://127.0.0.1:1", "key": "k", "token-command": "touch {}"}),
        ("tpm2", {"tcti": "cmd:touch {}"}),
    ],
)
def test_nothing_that_an_envelope_names_is_run_unasked(
    keystore: Path, place: Path, type_: str, names: dict[str, str]
) -> None:
    """Not by commands that open with no source named, nor by those that try all ways."""
    ran = place / "ran"
    plant(keystore, {key: text.format(ran) for key, text in names.items()}, type_=type_)
    runner.invoke(app, ["keystore", "verify", "-k", str(keystore)], input="")
    for arguments, code in (
        (("list", "-k", keystore), 5),
        (("provider", "test", "-k", keystore), 1),
        (("auto-open", "status", "-k", keystore), 1),
    ):
        refused = run(*arguments, code=code)
        assert f"provider accept a --keystore {keystore}" in refused.output.replace("\n", " ")
    run("backup", place / "backup", "-k", keystore)
    run("list", "-k", place / "backup", code=5)
    assert not ran.exists()
    # Whoever names it has looked at it.
    run("provider", "test", "a", "-k", keystore, code=1)
    if type_ not in ("tpm2", "pkcs11"):
        assert ran.exists() or type_ == "vault"


def files_in(accepted: Path) -> list[Path]:
    """What was accepted, one file for each keystore, and not the lock beside them."""
    return [file for file in accepted.iterdir() if not file.name.startswith(".")]


def bind_to_command(keystore: Path, passphrase: list[str], place: Path) -> Path:
    secret, ran = place / "secret", place / "ran"
    secret.write_bytes(os.urandom(32))
    secret.chmod(0o644)
    command = f"echo run >> {ran}; cat {secret}"
    run("auto-open", "enable", "--bind", f"command:{command}", "-k", keystore, *passphrase)
    ran.write_text("")
    ran.chmod(0o666)
    return ran


def test_what_was_added_here_opens_and_elsewhere_only_after_it_was_accepted(
    keystore: Path,
    passphrase: list[str],
    place: Path,
    accepted: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ran = bind_to_command(keystore, passphrase, place)
    run("list", "-k", keystore)
    assert ran.read_text() == "run\n"
    (file,) = files_in(accepted)
    assert file.stat().st_mode & 0o777 == 0o644
    assert accepted.stat().st_mode & 0o777 == 0o755
    # A rotation makes the envelope anew and changes nothing that it runs.
    run("rotate", "-k", keystore, *passphrase)
    run("list", "-k", keystore)
    # A backup that is restored on another machine.
    run("backup", place / "backup", "-k", keystore)
    monkeypatch.setenv("TDE_ACCEPTED", str(place / "machine"))
    ran.write_text("")
    asked = run("list", "-k", place / "backup", code=5)
    assert "was not accepted on this machine" in asked.stderr
    assert ran.read_text() == ""
    accepting = ("provider", "accept", "auto-open", "-k", place / "backup")
    run(*accepting, "--provider", "auto-open", code=5)
    said = run(*accepting, *passphrase)
    assert "may open" in said.stdout
    run("list", "-k", place / "backup")
    assert ran.read_text() == "run\n"
    # With its removal goes the acceptance: put back, it is passed over.
    removed = next((place / "backup" / "unlock").iterdir())
    content = removed.read_bytes()
    run("provider", "remove", "auto-open", "-k", place / "backup")
    removed.write_bytes(content)
    removed.chmod(0o600)
    run("list", "-k", place / "backup", code=5)


def test_other_parameters_under_an_accepted_name_are_passed_over(
    keystore: Path, passphrase: list[str], place: Path
) -> None:
    ran = bind_to_command(keystore, passphrase, place)
    plant(keystore, {"command": f"touch {place}/other"}, name="auto-open")
    run("list", "-k", keystore, code=5)
    assert not (place / "other").exists()
    assert ran.read_text() == ""
    # Nor is it accepted: it was not made by who had the master key.
    refused = run("provider", "accept", "auto-open", "-k", keystore, *passphrase, code=5)
    assert "was altered" in refused.stderr


@pytest.mark.parametrize("loosened", ["file", "directory"])
def test_what_others_could_have_accepted_does_not_count(
    keystore: Path, passphrase: list[str], place: Path, accepted: Path, loosened: str
) -> None:
    bind_to_command(keystore, passphrase, place)
    run("list", "-k", keystore)
    target = accepted if loosened == "directory" else files_in(accepted)[0]
    target.chmod(target.stat().st_mode | 0o020)
    run("list", "-k", keystore, code=5)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")
def test_the_owner_of_a_keystore_accepts_for_himself_and_not_for_root(
    keystore: Path, passphrase: list[str], place: Path, accepted: Path
) -> None:
    bind_to_command(keystore, passphrase, place)
    for file in (accepted, *accepted.iterdir()):
        os.chown(file, 65534, 65534)
    run("list", "-k", keystore, code=5)
    for file in (keystore, *keystore.rglob("*")):
        os.chown(file, 65534, 65534)
    run("list", "-k", keystore)


def test_programs_get_nothing_of_the_environment_of_the_command(
    keystore: Path, passphrase: list[str], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of root")
    monkeypatch.setenv("LANG", "C.UTF-8")
    secret, seen = place / "secret", place / "seen"
    secret.write_bytes(os.urandom(32))
    secret.chmod(0o644)
    seen.touch()
    seen.chmod(0o666)
    command = f"tr '\\0' '\\n' < /proc/self/environ > {seen}; cat {secret}"
    run("auto-open", "enable", "--bind", f"command:{command}", "-k", keystore, *passphrase)
    text = seen.read_text()
    assert "LANG=C.UTF-8" in text
    assert "PATH=" in text
    assert "AWS_SECRET_ACCESS_KEY" not in text
    assert "TDE_ACCEPTED" not in text


@pytest.fixture
def forged(empty_keystore: Path, place: Path) -> Path:
    secret = place / "host.key"
    secret.write_bytes(os.urandom(32))
    secret.chmod(0o600)
    forge(empty_keystore, secret)
    return empty_keystore


def test_first_keys_are_made_only_with_the_passphrase(forged: Path) -> None:
    wanted = {KeyOwner.wal(): Algorithm.AES256}
    with open_keystore(forged) as opened, pytest.raises(KeystoreError) as told:
        opened.create_first_keys(wanted)
    assert "was not opened by its passphrase" in str(told.value)
    assert "--passphrase-file" in told.value.remedy
    (forged / "auto-open.key").unlink()
    with open_keystore(forged) as opened, pytest.raises(KeystoreError):
        opened.create_first_keys(wanted)
    assert not list((forged / "keys").iterdir())
    with Keystore.open(forged, PASSPHRASE) as opened:
        opened.create_first_keys(wanted)


def test_init_asks_for_the_passphrase_also_where_the_keystore_opens_by_itself(
    forged: Path, place: Path
) -> None:
    (place / "pg").mkdir()
    user = server_os_user(None)
    if user is not None:
        for file in (place / "pg", forged, *forged.rglob("*")):
            os.chown(file, user.uid, user.gid)
    given = ["pg", "init", "-D", str(place / "pg" / "data"), "-k", str(forged)]
    result = runner.invoke(app, given, input="")
    assert result.exit_code == 5, result.output
    assert "no passphrase was given" in result.output
    by_provider = runner.invoke(app, [*given, "--provider", "a"], input="")
    assert "this takes the passphrase, and no provider will do" in by_provider.output
    assert not list((forged / "keys").iterdir())


def test_foreign_ways_are_named_after_an_opening_by_passphrase(
    forged: Path, passphrase: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    # Of a rotation that was interrupted, for who looks at its name.
    new = shutil.copy(forged / "auto-open.key", forged / "auto-open.key.new")
    run("list", "-k", forged, *passphrase)
    said = caplog.text
    caplog.clear()
    for file in (forged / "auto-open.key", Path(new), *(forged / "unlock").iterdir()):
        assert f"{file} was NOT made by who had the master key" in said
        assert f"rm {file}" in said
        file.unlink()
    run("list", "-k", forged, *passphrase)
    assert "was NOT made" not in caplog.text


def test_an_envelope_that_is_swapped_after_the_look_opens_at_its_own_level(
    keystore: Path, passphrase: list[str], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ("--bind", f"host-secret:{place}/host.key", "-k", keystore, *passphrase)
    run("auto-open", "enable", "--level", "wal", *given)
    infos = list_providers(keystore)
    envelope = infos[0].envelope
    assert envelope is not None
    seen = replace(envelope, header=replace(envelope.header, level="full"))
    listed = replace(infos[0], envelope=seen)
    monkeypatch.setattr("tde.keystore.envelopes.unattended_providers", lambda _: [listed])
    refused = run("list", "-k", keystore, code=5)
    assert "at level wal" in refused.stderr


@pytest.mark.parametrize(
    ("parameters", "says"),
    [({}, "needs the parameter file"), ({"file": "/\ud800"}, "malformed")],
)
def test_a_planted_file_stops_no_command_with_a_fault(
    keystore: Path, passphrase: list[str], parameters: dict[str, str], says: str
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        # Such a file can be written, and no release writes one.
        patch.setattr("tde.keystore.store.envelope._is_parameter", lambda *_: True)
        plant(keystore, parameters, type_="host-secret")
    for arguments in (("status",), ("auto-open", "status"), ("provider", "list"), ("list",)):
        result = runner.invoke(app, ["keystore", *arguments, "-k", str(keystore)], input="")
        assert result.exception is None or isinstance(result.exception, SystemExit), arguments
    assert says in run("provider", "test", "-k", keystore, code=1).output
    run("list", "-k", keystore, *passphrase)


@pytest.mark.parametrize("spoilt", ["mode", "byte"])
def test_disable_names_what_it_cannot_read(
    keystore: Path, passphrase: list[str], place: Path, spoilt: str
) -> None:
    given = ("--bind", f"host-secret:{place}/host.key", "-k", keystore, *passphrase)
    run("auto-open", "enable", *given)
    (file,) = (keystore / "unlock").iterdir()
    if spoilt == "mode":
        file.chmod(0o640)
    else:
        file.write_bytes(file.read_bytes().replace(b'"unattended"', b'"Unattended"'))
    for verb in ("status", "disable"):
        told = run("auto-open", verb, "-k", keystore, code=1)
        assert str(file) in told.output
        assert "tde keystore provider remove auto-open" in told.output
    assert json.loads(run("auto-open", "status", "-k", keystore, "--json", code=1).stdout)["unread"]
    run("provider", "remove", "auto-open", "-k", keystore)
    assert "did not open by itself" in run("auto-open", "disable", "-k", keystore).stdout
