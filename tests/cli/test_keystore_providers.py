"""`tde keystore provider`, and `--provider` of the other commands."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tde.cli.app import app
from tests.keystore.cheap_passphrase import PASSPHRASE
from tests.keystore.third_party import Xor, install
from tests.terminal import run_on_terminal

VERBS = ["add", "accept", "list", "test", "remove", "forget", "types"]
TDE = [sys.executable, "-c", "from tde.cli.app import main; main()"]
runner = CliRunner(env={"TDE_KEYSTORE": None, "COLUMNS": "200", "NO_COLOR": "1"})


@pytest.fixture
def xor(place: Path, monkeypatch: pytest.MonkeyPatch) -> Xor:
    """A provider of somebody else, for commands in this process and in others."""
    install(place / "site")
    monkeypatch.syspath_prepend(str(place / "site"))
    monkeypatch.setenv("PYTHONPATH", str(place / "site"))
    return Xor(place / "xor")


def run(*arguments: object, code: int = 0) -> Any:
    result = runner.invoke(app, ["keystore", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


def add(keystore: Path, xor: Xor, *more: object, code: int = 0) -> Any:
    given = ("--type", "xor", "-o", f"place={xor.place}", "-k", keystore)
    return run("provider", "add", *given, *more, code=code)


@pytest.mark.parametrize("verb", VERBS)
def test_every_help_has_examples(verb: str) -> None:
    text = run("provider", verb, "--help").stdout
    assert "Examples " in text
    assert f"$ tde keystore provider {verb}" in text


def test_its_whole_life(keystore: Path, xor: Xor, passphrase: list[str]) -> None:
    shown = add(keystore, xor, "hsm", "--unattended", "--cache", "12h", *passphrase)
    assert "Provider hsm opens the keystore: " in shown.stdout
    assert "Whoever has a copy of it and the use of this provider" in shown.stderr
    listed = run("provider", "list", "-k", keystore)
    assert listed.stdout.splitlines()[1].split(maxsplit=5) == [
        "hsm", "xor", "yes,", "level", "full", f"12h    place={xor.place}",
    ]  # fmt: skip
    (facts,) = json.loads(run("provider", "list", "-k", keystore, "--json").stdout)["providers"]
    assert (facts["unattended"], facts["level"], facts["cache_seconds"]) == (True, "full", 43200)
    assert "hsm: opens the keystore, " in run("provider", "test", "-k", keystore).stdout
    # Nothing says how to open it, so it opens by itself.
    assert "1 key" not in run("list", "-k", keystore).stdout
    assert "open keystore: with provider hsm (xor)" in run("log", "-k", keystore).stdout
    assert "so its passphrase was not tried" in run("verify", "-k", keystore).stderr
    assert "Providers   hsm" in run("status", "-k", keystore).stdout
    assert json.loads(run("status", "-k", keystore, "--json").stdout)["providers"] == ["hsm"]
    backed_up = run("backup", keystore.parent / "backup", "-k", keystore)
    way = f"by:\n  provider hsm (xor, unattended)\n    place={xor.place}\nEach provider needs"
    assert way in backed_up.stderr
    restored = run("restore", keystore.parent / "backup", "-k", keystore.parent / "new")
    assert way in restored.stderr
    assert "was not accepted" not in restored.stderr
    run("verify", "-k", keystore, "--provider", "hsm")
    rotated = run("rotate", "-k", keystore, *passphrase)
    assert "The new master key opens by provider hsm (xor, unattended) as well." in rotated.stdout
    run("verify", "-k", keystore, "--provider", "hsm")
    new = ["--new-passphrase-command", "echo another passphrase"]
    changed = run("passphrase", "-k", keystore, *passphrase, *new)
    assert "It still opens by its providers: hsm." in changed.stderr
    removed = run("provider", "remove", "hsm", "-k", keystore)
    assert "made before still open by it" in removed.stderr
    assert "only its passphrase" in run("provider", "list", "-k", keystore).stdout
    run("list", "-k", keystore, "--provider", "hsm", code=5)
    assert "There is no provider to try." in run("provider", "test", "-k", keystore).stdout


def test_what_fails_is_told_in_one_line_each(
    keystore: Path, xor: Xor, passphrase: list[str]
) -> None:
    add(keystore, xor, "first", "--unattended", *passphrase)
    add(keystore, xor, "second", "--unattended", *passphrase)
    xor.behave("away")
    listing = [*TDE, "keystore", "list", "-k", keystore]
    found = subprocess.run(
        listing, capture_output=True, text=True, stdin=subprocess.DEVNULL, start_new_session=True
    )
    assert found.returncode == 5
    assert found.stderr.splitlines() == [
        "provider first (xor): it is away",
        "provider second (xor): it is away",
        "tde: error: no passphrase was given and there is no terminal to ask on, and the keystore "
        "does not open by itself: provider first (xor): it is away; provider second (xor): it is "
        "away",
        "HINT: Repair one of them, or: Give one of --passphrase-file, --passphrase-fd or "
        "--passphrase-command.",
    ]
    # On a terminal the passphrase is asked for then.
    shown, code = run_on_terminal([str(part) for part in listing], [PASSPHRASE + b"\n"])
    assert code == 0, shown
    assert shown.index("second (xor): it is away") < shown.index("Passphrase of ")
    trial = run("provider", "test", "-k", keystore, code=1)
    assert trial.stdout.count("it is away") == 2
    assert "HINT: Wait for it." in trial.stdout
    facts = json.loads(run("provider", "test", "first", "-k", keystore, "--json", code=1).stdout)
    assert (facts["good"], facts["providers"][0]["opens"]) == (False, False)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["x", "--level", "wal"], 2, "--level is for --unattended"),
        (["x", "--cache", "12"], 2, "--cache takes a time"),
        (["x", "--cache", "8d"], 2, "--cache takes a time"),
        (["x", "-o", "place"], 2, "is not of the form KEY=VALUE"),
        (["x", "-o", "place=/"], 2, "the parameter place was given twice"),
        (["x", "--share-dir", "/tmp"], 2, "--share-dir is for --type custodians"),
        (["x", "-o", "other=1"], 5, "a provider of type xor has no parameter other"),
        (["X"], 5, "a provider cannot be called 'X'"),
        (["all"], 5, "a provider cannot be called 'all'"),
        (["x", "--unattended", "--level", "half"], 5, "cannot have these parameters, this level"),
        (["x", "--provider", "y"], 5, "more than one source was given for the passphrase"),
    ],
)
def test_add_refuses(
    keystore: Path,
    xor: Xor,
    passphrase: list[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    result = add(keystore, xor, *arguments, *passphrase, code=code)
    assert message in " ".join(result.stderr.replace("│", " ").split())
    assert not (keystore / "unlock").exists()


def test_types_lists_those_of_tde_and_of_others(xor: Xor) -> None:
    known = json.loads(run("provider", "types", "--json").stdout)["types"]
    assert {"command", "custodians", "kmip", "pkcs11", "vault", "xor"} <= known.keys()
    assert known["xor"]["parameters"][0] == {
        "name": "place",
        "help": "a directory",
        "required": True,
    }
    assert "    note: anything (optional)" in run("provider", "types").stdout
    # One that cannot be loaded hides no other.
    (xor.place.parent / "site" / "provider_of_tests.py").write_text("import nothing_of_this_name")
    sys.modules.pop("provider_of_tests", None)
    assert "cannot be loaded" in run("provider", "types").stdout


def test_a_library_that_is_missing_is_named(
    keystore: Path, passphrase: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "shamir_mnemonic", None)
    given = ("--type", "custodians", "-o", "shares=3", "-o", "threshold=2", "--share-dir", "/tmp/x")
    result = run("provider", "add", "o", *given, "-k", keystore, *passphrase, code=5)
    assert "pip install 'tde[custodians]'" in result.stderr


def test_custodians_with_files(keystore: Path, place: Path, passphrase: list[str]) -> None:
    given = ("--type", "custodians", "-o", "shares=3", "-o", "threshold=2", "-k", keystore)
    shares = place / "shares"
    without = run("provider", "add", "officers", *given, *passphrase, code=1)
    assert "there is no terminal to show the shares on" in without.stderr
    result = run("provider", "add", "officers", *given, "--share-dir", shares, *passphrase)
    files = sorted(shares.iterdir())
    assert [file.name for file in files] == [f"officers-share-{n}-of-3" for n in (1, 2, 3)]
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    assert "remove them from this machine" in result.stderr
    assert files[0].read_text().split()[5] not in result.output
    opened = ["list", "-k", keystore, "--provider", "officers"]
    run(*opened, "--share-file", files[0], "--share-file", files[2])
    wrong = run(*opened, "--share-file", files[0], "--share-file", files[0], code=5)
    assert "share file 2 was given already" in wrong.stderr
    files[1].chmod(0o644)
    run(*opened, "--share-file", files[0], "--share-file", files[1], code=5)
    alone = run("list", "-k", keystore, "--share-file", files[0], code=5)
    assert "shares were given, and not whose they are" in alone.stderr
    # Nothing that people have to come for is tried by the way, and no share is overwritten.
    assert "Only when named: officers" in run("provider", "test", "-k", keystore).stdout
    before = [file.read_bytes() for file in files]
    run("provider", "remove", "officers", "-k", keystore)
    again = run(
        *("provider", "add", "officers", *given, "--share-dir", shares, *passphrase), code=5
    )
    assert "No provider was added" in again.stderr
    assert [file.read_bytes() for file in files] == before
    assert not list((keystore / "unlock").iterdir())


def test_custodians_on_a_terminal(keystore: Path, passphrase: list[str]) -> None:
    """Each share is shown once, to one person; opening asks for them without echo."""
    given = ["--type", "custodians", "-o", "shares=3", "-o", "threshold=2", "-k", str(keystore)]
    adding = [*TDE, "keystore", "provider", "add", "officers", *given, *passphrase]
    shown, code = run_on_terminal(adding, [b"\n"] * 6)
    assert code == 0, shown
    shares = []
    for part in shown.split("Enter shows it: ")[1:]:
        words, _, rest = part.partition("Write it down")
        assert "\x1b[2J\x1b[3J\x1b[H" in rest
        shares.append(" ".join(words.split()))
    assert [len(share.split()) for share in shares] == [33, 33, 33]
    listing = [*TDE, "keystore", "list", "-k", str(keystore), "--provider", "officers"]
    answers = [shares[2], "academic acid", shares[2], shares[0]]
    shown, code = run_on_terminal(listing, [answer.encode() + b"\n" for answer in answers])
    assert code == 0, shown
    assert "this share is mistyped or incomplete: its checksum does not fit. Once more" in shown
    assert "this share was given already: it is number 3" in shown
    assert shown.count("Share 2 of 2 for officers: ") == 3
    assert shares[0].split()[6] not in shown
    # Who interrupts it has a terminal that shows again what is typed.
    line = f"trap : INT; {shlex.join(listing)}; stty -a"
    shown, _ = run_on_terminal(["sh", "-c", line], [shares[2].encode() + b"\n", b"\x03"])
    assert "Interrupted." in shown
    assert " echo " in shown.partition("Interrupted.")[2]


def test_a_share_is_never_left_when_the_provider_is_not_added(
    keystore: Path, place: Path, passphrase: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tde.errors import KeystoreError
    from tde.keystore import envelopes

    def full(files: object) -> None:
        raise KeystoreError("could not write it: No space left on device")

    monkeypatch.setattr(envelopes, "write_all_atomically", full)
    given = ("--type", "custodians", "-o", "shares=3", "-o", "threshold=2", "-k", keystore)
    shares = place / "shares"
    run("provider", "add", "o", *given, "--share-dir", shares, *passphrase, code=5)
    assert list(shares.iterdir()) == []
