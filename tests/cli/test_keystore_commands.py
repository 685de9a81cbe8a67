"""`tde keystore` and what all commands share: help, errors, exit codes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from tde.algorithms import Algorithm
from tde.cli.app import COMMANDS, app
from tde.console.errors import EXIT_INTERRUPTED, reporting_errors
from tde.errors import TdeError
from tde.keystore import KeyOwner, Keystore
from tests.keystore.cheap_passphrase import CHEAP_KDF, PASSPHRASE

runner = CliRunner(env={"TDE_KEYSTORE": None, "COLUMNS": "200", "NO_COLOR": "1"})


@pytest.fixture
def target(place: Path) -> Path:
    """Where a keystore is to be; the server's user can reach it."""
    return place / "ks"


@pytest.fixture
def keystore(target: Path) -> Path:
    with Keystore.create(target, PASSPHRASE, kdf=CHEAP_KDF) as created:
        created.create_key(KeyOwner.wal(), Algorithm.AES256)
        created.create_plaintext_entry(1663)
        created.create_key(KeyOwner.tablespace(16400), Algorithm.AES128)
    return target


@pytest.fixture
def passphrase_file(tmp_path: Path) -> Path:
    file = tmp_path / "passphrase"
    file.write_bytes(PASSPHRASE + b"\n")
    file.chmod(0o600)
    return file


def test_create_makes_a_keystore_that_opens(target: Path, passphrase_file: Path) -> None:
    result = runner.invoke(
        app,
        ["keystore", "create", "-k", str(target), "--passphrase-file", str(passphrase_file)],
    )
    assert result.exit_code == 0, result.output
    with Keystore.open(target, PASSPHRASE) as keystore:
        assert result.stdout == f"Created keystore {keystore.uuid.hex} in {target}\n"
    assert "A lost passphrase is lost data." in result.stderr


def test_create_refuses_before_it_asks(keystore: Path) -> None:
    # No source for a passphrase is given and there is no terminal, so asking would fail.
    result = runner.invoke(app, ["keystore", "create", "-k", str(keystore)])
    assert result.exit_code == 5
    assert f"tde: error: there is already a keystore at {keystore}\nHINT: " in result.stderr


def test_create_with_a_failing_source_leaves_nothing(target: Path) -> None:
    result = runner.invoke(
        app, ["keystore", "create", "-k", str(target), "--passphrase-command", "printf short"]
    )
    assert result.exit_code == 5
    assert result.stderr.startswith("tde: error: passphrase is too short or too long\nHINT: ")
    assert not target.exists()


def test_status_as_json(keystore: Path) -> None:
    result = runner.invoke(
        app, ["keystore", "status", "--json"], env={"TDE_KEYSTORE": str(keystore)}
    )
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["path"] == str(keystore)
    assert document["kdf"] == {
        "name": "argon2id",
        "memory_kib": 8192,
        "iterations": 1,
        "lanes": 1,
    }
    keys = [
        (key["kind"], key["oid"], key["encrypted"], key["algorithm"]) for key in document["keys"]
    ]
    assert keys == [
        ("wal", None, True, "AES-256-XTS"),
        ("tablespace", 1663, False, None),
        ("tablespace", 16400, True, "AES-128-XTS"),
    ]


def test_status_for_people(keystore: Path) -> None:
    result = runner.invoke(app, ["keystore", "status", "-k", str(keystore)])
    assert result.exit_code == 0, result.output
    for text in ("the WAL", "tablespace 1663 (pg_default)", "not encrypted", "keys/16400.key"):
        assert text in result.stdout


def test_status_of_a_keystore_open_to_others_gives_the_remedy(keystore: Path) -> None:
    keystore.chmod(0o755)
    result = runner.invoke(app, ["keystore", "status", "-k", str(keystore)])
    assert result.exit_code == 5
    assert result.stderr == (
        f"tde: error: {keystore} is open to other users (mode 0755)\nHINT: chmod 0700 {keystore}\n"
    )


def test_keystore_must_be_named() -> None:
    result = runner.invoke(app, ["keystore", "status"])
    assert result.exit_code == 1
    assert (
        "HINT: Give --keystore DIR or set the environment variable TDE_KEYSTORE." in result.stderr
    )


@pytest.mark.parametrize(
    "arguments", [["keystore", "destroy"], ["keystore", "status", "--nonsense"], ["nonsense"]]
)
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    assert runner.invoke(app, arguments).exit_code == 2


@pytest.mark.parametrize(
    "arguments", [[], ["keystore"], ["keystore", "create"], ["keystore", "status"]]
)
def test_every_help_has_examples(arguments: list[str]) -> None:
    for flag in ("--help", "-h"):
        result = runner.invoke(app, [*arguments, flag])
        assert result.exit_code == 0
        assert "Examples " in result.stdout
        assert "$ tde " in result.stdout


def test_root_help_lists_every_noun() -> None:
    result = runner.invoke(app, ["--help"])
    for name, (_, summary) in COMMANDS.items():
        assert name in result.stdout
        assert summary in result.stdout


def test_passphrase_is_not_an_argument() -> None:
    help_text = runner.invoke(app, ["keystore", "create", "--help"]).stdout
    assert "--passphrase " not in help_text
    assert "env var: TDE_KEYSTORE" in help_text
    assert help_text.count("env var") == 1


MISSING_PROVIDER = """openssl_conf = all
[all]
alg_section = algorithms
[algorithms]
default_properties = fips=yes
"""


@pytest.mark.parametrize("verb", ["create", "status", "auto-open enable", "auto-open disable"])
def test_an_openssl_without_algorithms_gives_one_line(
    verb: str, keystore: Path, target: Path, passphrase_file: Path, tmp_path: Path
) -> None:
    configuration = tmp_path / "openssl.cnf"
    configuration.write_text(MISSING_PROVIDER)
    path = target.with_name("new") if verb == "create" else keystore
    arguments = ["keystore", *verb.split(), "-k", str(path)]
    if verb in ("create", "auto-open enable"):
        arguments += ["--passphrase-file", str(passphrase_file)]

    def run(code: str, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, *words],
            env={**os.environ, "OPENSSL_CONF": str(configuration)},
            capture_output=True,
            text=True,
            check=False,
        )

    result = run("from tde.cli.app import main; main()", *arguments)
    # These take nothing but digests, and from Python 3.14 on it has its own in place of OpenSSL's.
    needs_more = verb in ("create", "auto-open enable")
    if not needs_more and run("import hashlib; hashlib.sha256(b'')").returncode == 0:
        assert result.returncode == 0, result.stderr
        return
    assert result.returncode in (1, 5)
    error, hint = result.stderr.splitlines()
    assert error.startswith("tde: error: OpenSSL ")
    assert hint.startswith("HINT: ")
    assert "OPENSSL_CONF" in hint
    assert not target.with_name("new").exists()


def test_completion_offers_the_nouns_and_their_verbs() -> None:
    def complete(words: str) -> str:
        variables = {"_TDE_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": "2"}
        if words.count(" ") == 1:
            variables["COMP_CWORD"] = "1"
        result = subprocess.run(
            [sys.executable, "-c", "from tde.cli.app import main; main()"],
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            check=False,
        )
        return result.stdout

    assert "keystore" in complete("tde k")
    assert "status" in complete("tde keystore s")


def test_help_loads_no_cryptography() -> None:
    script = (
        "import sys\n"
        "from tde.cli.app import app\n"
        "from typer.testing import CliRunner\n"
        "for arguments in (['--help'], ['keystore', 'create', '--help']):\n"
        "    assert CliRunner().invoke(app, arguments).exit_code == 0\n"
        "heavy = {'cryptography', 'elftools', 'numpy', 'psutil', 'psycopg2'}\n"
        "heavy |= {'tde._core', 'tde.keystore.keystore', 'tde.page', 'tde.postgres'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize(
    ("raised", "code", "message"),
    [
        (TdeError("it broke", remedy="mend it"), 1, "prog: error: it broke\nHINT: mend it\n"),
        (TdeError("[brackets] stay"), 1, "prog: error: [brackets] stay\n"),
        (FileNotFoundError(2, "No such file", "/x"), 1, "prog: error: /x: No such file\n"),
        (KeyboardInterrupt(), 130, "Interrupted.\n"),
    ],
)
def test_errors_become_a_message_and_an_exit_code(
    raised: BaseException, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as caught, reporting_errors("prog"):
        raise raised
    assert caught.value.exit_code == code
    assert capsys.readouterr().err == message


def test_message_longer_than_the_terminal_stays_on_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(typer.Exit), reporting_errors():
        raise TdeError("word " * 100)
    assert capsys.readouterr().err.count("\n") == 1


def _all_errors(root: type[TdeError]) -> Iterator[type[TdeError]]:
    yield root
    for error in root.__subclasses__():
        yield from _all_errors(error)


def test_help_states_every_exit_code() -> None:
    text = " ".join(runner.invoke(app, ["--help"]).output.split())
    codes = {error.exit_code for error in _all_errors(TdeError)} | {0, 2, EXIT_INTERRUPTED}
    stated = text.split("Exit codes: ")[1]
    assert {int(number) for number in re.findall(r"\d+", stated)} == codes
