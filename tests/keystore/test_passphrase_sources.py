"""Where passphrases come from, the prompt on a real terminal included."""

from __future__ import annotations

import getpass
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tde.errors import KeystorePermissionError, PassphraseError
from tde.keystore.providers.passphrase_source import PassphraseSource, read_passphrase
from tests.terminal import interrupt_at_prompt, run_on_terminal


@pytest.fixture
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(prompt: str) -> str:
        raise AssertionError(f"asked on the terminal: {prompt}")

    monkeypatch.setattr(getpass, "getpass", refuse)


def private_file(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    path.chmod(0o600)
    return path


@pytest.mark.usefixtures("no_terminal")
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"correct horse", b"correct horse"),
        (b"correct horse\n", b"correct horse"),
        (b"correct horse\n\n", b"correct horse\n"),
        (b" spaces count ", b" spaces count "),
        (b"p\xc3\xa4ssword \xff\x00", b"p\xc3\xa4ssword \xff\x00"),
        (b"x" * 8, b"x" * 8),
        (b"x" * 200 + b"\n", b"x" * 200),
    ],
)
def test_every_source_gives_the_same_bytes(tmp_path: Path, content: bytes, expected: bytes) -> None:
    file = private_file(tmp_path / "passphrase", content)
    assert read_passphrase(PassphraseSource(file=file)) == expected
    assert read_passphrase(PassphraseSource(command=f"cat {file}")) == expected
    with file.open("rb") as opened:
        assert read_passphrase(PassphraseSource(fd=opened.fileno())) == expected
        opened.fileno()  # Still open: it belongs to the caller.


@pytest.mark.usefixtures("no_terminal")
@pytest.mark.parametrize(
    "content", [b"", b"\n", b"x" * 7, b"x" * 7 + b"\n", b"x" * 201, b"x" * 9999]
)
def test_wrong_length_has_one_message_from_every_source(tmp_path: Path, content: bytes) -> None:
    file = private_file(tmp_path / "passphrase", content)
    for source in ({"file": file}, {"command": f"cat {file}"}):
        with pytest.raises(PassphraseError, match=r"^passphrase is too short or too long$"):
            read_passphrase(PassphraseSource(**source))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660])
def test_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    file = private_file(tmp_path / "passphrase", b"correct horse")
    file.chmod(mode)
    with pytest.raises(KeystorePermissionError, match="open to other users") as caught:
        read_passphrase(PassphraseSource(file=file))
    assert caught.value.remedy == f"chmod 0600 {file}"


def test_passphrase_that_arrives_in_pieces_is_read_whole() -> None:
    reader, writer = os.pipe()
    slow = subprocess.Popen(
        ["sh", "-c", "printf correct; sleep 0.1; printf ' horse\\n'"], stdout=writer
    )
    os.close(writer)
    try:
        assert read_passphrase(PassphraseSource(fd=reader)) == b"correct horse"
    finally:
        os.close(reader)
        slow.wait()


def test_sources_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(PassphraseError, match="No such file"):
        read_passphrase(PassphraseSource(file=tmp_path / "none"))
    tmp_path.chmod(0o700)
    with pytest.raises(PassphraseError, match="Is a directory"):
        read_passphrase(PassphraseSource(file=tmp_path))
    with pytest.raises(PassphraseError, match="file descriptor 999: Bad file descriptor"):
        read_passphrase(PassphraseSource(fd=999))


@pytest.mark.parametrize("command", ["exit 3", "echo a useless passphrase; exit 3"])
def test_failing_command_is_not_believed(command: str) -> None:
    with pytest.raises(PassphraseError, match="ended with exit status 3"):
        read_passphrase(PassphraseSource(command=command))


def test_two_sources_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PassphraseError, match="more than one source"):
        PassphraseSource(file=tmp_path / "a", command="true")


def answer(monkeypatch: pytest.MonkeyPatch, *answers: str) -> Iterator[str]:
    remaining = iter(answers)
    monkeypatch.setattr(getpass, "getpass", lambda prompt: next(remaining))
    return remaining


def test_prompt_asks_twice_only_for_a_new_passphrase(monkeypatch: pytest.MonkeyPatch) -> None:
    left = answer(monkeypatch, "correct hörse", "unused")
    assert read_passphrase() == "correct hörse".encode()
    assert list(left) == ["unused"]
    left = answer(monkeypatch, "correct horse", "correct horse")
    assert read_passphrase(confirm=True) == b"correct horse"
    assert list(left) == []


def test_prompt_refuses_different_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, "correct horse", "correct house")
    with pytest.raises(PassphraseError, match="differ"):
        read_passphrase(confirm=True)


def test_prompt_does_not_ask_for_a_useless_passphrase_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    left = answer(monkeypatch, "short", "short")
    with pytest.raises(PassphraseError, match="too short"):
        read_passphrase(confirm=True)
    assert list(left) == ["short"]


TDE = [sys.executable, "-c", "from tde.cli.app import main; main()"]


@pytest.fixture
def target(place: Path) -> Path:
    """Where a keystore is to be; the server's user can reach it."""
    return place / "ks"


def test_prompt_on_a_terminal_does_not_echo(target: Path) -> None:
    create = [*TDE, "keystore", "create", "--keystore", str(target)]
    shown, code = run_on_terminal(create, [b"correct horse\n", b"correct horse\n"])
    assert code == 0, shown
    assert f"Passphrase for the new keystore {target}: " in shown
    assert "The same again: " in shown
    assert "lost passphrase is lost data" in shown
    assert "horse" not in shown
    assert (target / "keystore.json").exists()


def test_control_c_at_the_prompt_ends_quietly(target: Path) -> None:
    create = [*TDE, "keystore", "create", "--keystore", str(target)]
    shown, code = run_on_terminal(create, [b"\x03"])
    assert code == 130
    assert "Traceback" not in shown
    assert not target.exists()


def test_a_signal_to_the_command_alone_ends_it_at_the_prompt(target: Path) -> None:
    """The fault: its child went on asking, and it waited for that without end."""
    create = [*TDE, "keystore", "create", "--keystore", str(target)]
    shown, code, echoes = interrupt_at_prompt(create)
    assert "Passphrase for the new keystore" in shown
    assert code == 130
    assert echoes
    assert not target.exists()


def test_without_a_terminal_nothing_is_asked() -> None:
    # start_new_session takes the controlling terminal away; getpass would then echo.
    script = (
        "from tde.keystore.providers.passphrase_source import read_passphrase; read_passphrase()"
    )
    result = subprocess.run(
        [sys.executable, "-c", script],
        input="correct horse\n",
        capture_output=True,
        text=True,
        start_new_session=True,
        check=False,
    )
    assert "there is no terminal to ask on" in result.stderr
