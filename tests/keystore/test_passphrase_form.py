"""A passphrase that is right but for its form is told from a wrong one, and never set."""

from __future__ import annotations

import codecs
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from tde.errors import PassphraseError, WrongPassphraseError
from tde.keystore import Keystore, change_passphrase, rotate_master_key
from tde.keystore.opening import open_keystore
from tde.keystore.providers import passphrase_form
from tde.keystore.providers.passphrase import PassphraseProvider
from tde.keystore.providers.passphrase_source import PassphraseSource
from tests.keystore.cheap_passphrase import CHEAP_KDF
from tests.terminal import run_on_terminal

PLAIN = "p\u00e4ssword of tests"
NFC = PLAIN.encode()
NFD = unicodedata.normalize("NFD", PLAIN).encode()
BOM = codecs.BOM_UTF8

# How a file or a keyboard spoils the passphrase, and what is said about it.
SPOILED = [
    pytest.param(NFC + b"\r", "carriage return", id="CR LF"),
    pytest.param(BOM + NFC, "byte order mark", id="BOM"),
    pytest.param(BOM + NFC + b"\r", "byte order mark and", id="BOM and CR LF"),
    pytest.param(NFC + b"\n", "newline", id="a second newline"),
    pytest.param(NFD, "NFD", id="NFD"),
    # As PowerShell writes it; the last byte of LF in UTF-16 is not a newline of its own.
    pytest.param((PLAIN + "\r\n").encode("utf-16"), "UTF-16", id="UTF-16"),
]


@pytest.mark.parametrize(("spoiled", "named"), SPOILED)
def test_a_new_passphrase_that_cannot_be_typed_is_refused(
    tmp_path: Path, spoiled: bytes, named: str
) -> None:
    with pytest.raises(PassphraseError, match=named) as caught:
        Keystore.create(tmp_path / "ks", spoiled, kdf=CHEAP_KDF)
    assert "UTF-8" in caught.value.remedy
    assert not (tmp_path / "ks").exists()


@pytest.mark.parametrize(("spoiled", "_named"), SPOILED)
def test_a_spoiled_passphrase_is_told_from_a_wrong_one(
    tmp_path: Path, spoiled: bytes, _named: str
) -> None:
    Keystore.create(tmp_path / "ks", NFC, kdf=CHEAP_KDF).close()
    with pytest.raises(WrongPassphraseError, match="it would be right") as caught:
        Keystore.open(tmp_path / "ks", spoiled)
    assert "altered" not in caught.value.remedy


@pytest.mark.parametrize("spoiled", [NFC + b" ", PLAIN.encode("latin-1"), b"\t" + NFC])
def test_other_forms_are_told_too(tmp_path: Path, spoiled: bytes) -> None:
    Keystore.create(tmp_path / "ks", NFC, kdf=CHEAP_KDF).close()
    with pytest.raises(WrongPassphraseError, match="it would be right"):
        Keystore.open(tmp_path / "ks", spoiled)


@pytest.mark.parametrize(("spoiled", "_named"), SPOILED[:-1])
def test_the_passphrase_of_an_older_keystore_may_have_such_a_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoiled: bytes, _named: str
) -> None:
    with monkeypatch.context() as older:
        older.setattr(passphrase_form, "_faults", lambda passphrase: [])
        Keystore.create(tmp_path / "ks", spoiled, kdf=CHEAP_KDF).close()
    Keystore.open(tmp_path / "ks", spoiled).close()
    with pytest.raises(WrongPassphraseError, match="it would be right") as caught:
        Keystore.open(tmp_path / "ks", NFC)
    assert "tde keystore passphrase" in caught.value.remedy


def test_a_wrong_passphrase_is_just_wrong(tmp_path: Path) -> None:
    Keystore.create(tmp_path / "ks", NFC, kdf=CHEAP_KDF).close()
    for wrong in (b"another passphrase\r", b"another p\xe4ssphrase", b"\xff\xfe another one"):
        with pytest.raises(WrongPassphraseError) as caught:
            Keystore.open(tmp_path / "ks", wrong)
        assert "it would be right" not in str(caught.value)


@pytest.mark.parametrize("passphrase", [b"\xff\xc3 random\r", b" blanks at the ends ", NFC])
def test_other_bytes_may_have_any_form(tmp_path: Path, passphrase: bytes) -> None:
    Keystore.create(tmp_path / "ks", passphrase, kdf=CHEAP_KDF).close()
    Keystore.open(tmp_path / "ks", passphrase).close()


def test_text_in_place_of_bytes_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    text: Any = "a passphrase for tests"
    path = tmp_path / "ks"
    with pytest.raises(TypeError, match=r"a passphrase is bytes, not str: encode it"):
        Keystore.create(path, text, kdf=CHEAP_KDF)
    assert not path.exists()
    Keystore.create(path, text.encode(), kdf=CHEAP_KDF).close()
    provider = PassphraseProvider(text.encode())
    uses = (
        lambda: Keystore.open(path, text),
        lambda: PassphraseProvider(text),
        lambda: change_passphrase(path, provider, text),
        lambda: rotate_master_key(path, text),
    )
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    for use in uses:
        with pytest.raises(TypeError, match="encode it"):
            use()
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before


def test_memory_that_is_short_leaves_no_half_of_a_keystore(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(PassphraseProvider, "wrap_master_key", fail)
    with pytest.raises(MemoryError):
        Keystore.create(tmp_path / "ks", NFC, kdf=CHEAP_KDF)
    assert not (tmp_path / "ks").exists()


SPOILED_BYTES = [spoiled.values[0] for spoiled in SPOILED]


@pytest.mark.parametrize("source", ["file", "fd", "command"])
@pytest.mark.parametrize("spoiled", SPOILED_BYTES, ids=[spoiled.id for spoiled in SPOILED])
def test_each_source_tells_a_spoiled_passphrase_from_a_wrong_one(
    tmp_path: Path, source: str, spoiled: bytes
) -> None:
    Keystore.create(tmp_path / "ks", NFC, kdf=CHEAP_KDF).close()
    file = tmp_path / "passphrase"
    file.write_bytes(spoiled + b"\n")  # Which files and programs end with.
    file.chmod(0o600)
    with file.open() as content:
        given = {"file": file, "fd": content.fileno(), "command": f"cat {file}"}
        chosen: Any = {source: given[source]}
        with pytest.raises(WrongPassphraseError, match="it would be right"):
            open_keystore(tmp_path / "ks", PassphraseSource(**chosen))


def test_a_terminal_tells_it_too(tmp_path: Path) -> None:
    Keystore.create(tmp_path / "ks", NFC, kdf=CHEAP_KDF).close()
    command = [
        *(sys.executable, "-c", "from tde.cli.app import main; main()"),
        *("keystore", "list", "--keystore", str(tmp_path / "ks")),
    ]
    for spoiled in (NFD, BOM + NFC):
        shown, code = run_on_terminal(command, [spoiled + b"\n"])
        assert code == 5
        assert "it would be right" in " ".join(shown.split())
