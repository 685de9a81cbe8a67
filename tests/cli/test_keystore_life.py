"""`tde keystore history`, `mark`, `max-age`, `destroy`, `receipt` and `forget-cluster`."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import sys
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from typer.testing import CliRunner

from tde.algorithms import Algorithm
from tde.cli.app import app
from tde.keystore import KeyOwner, Keystore, read_key_log
from tde.keystore.lifecycle.events import Place, activate_keys, tell_of_place
from tde.keystore.log import entry as log_entry
from tests.keystore.cheap_passphrase import CHEAP_KDF, PASSPHRASE
from tests.terminal import run_on_terminal

DESTROY = ["destroy", "wal.2", "--no-cluster"]
VERBS = ["history", "mark", "max-age", "destroy", "receipt", "forget-cluster"]
TDE = [sys.executable, "-c", "from tde.cli.app import main; main()"]
runner = CliRunner(env={"TDE_KEYSTORE": None, "COLUMNS": "200", "NO_COLOR": "1", "PGDATA": None})


@pytest.fixture
def keystore(place: Path) -> Path:
    """One that opens by itself; with the key of a WAL that came later."""
    with Keystore.create(place / "ks", PASSPHRASE, kdf=CHEAP_KDF) as created:
        created.create_key(KeyOwner.wal(), Algorithm.AES256)
        created.create_wal_key(Algorithm.AES128)
        activate_keys(created, {KeyOwner.wal(): "WAL"}, Place(place / "main"))
        created.enable_auto_open()
    return place / "ks"


def run(*arguments: object, code: int = 0) -> Any:
    result = runner.invoke(app, ["keystore", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


def document(*arguments: object) -> Any:
    return json.loads(run(*arguments, "--json").stdout)


def later_key(keystore: Path) -> str:
    """Return the id of the later key of WAL."""
    (file,) = (keystore / "keys").glob("wal.2.*.key")
    return file.name.split(".")[2]


@pytest.mark.parametrize("verb", VERBS)
def test_every_help_has_examples(verb: str) -> None:
    text = run(verb, "--help").stdout
    assert "Examples " in text
    assert f"$ tde keystore {verb}" in text


def test_the_list_fits_a_terminal(keystore: Path) -> None:
    shown = run("list", "-k", keystore)
    assert [re.split("  +", line)[1:4] for line in shown.stdout.splitlines()] == [
        ["Ver", "Algorithm", "State"],
        ["1", "AES-256-XTS", "active"],
        ["2", "AES-128-XTS", "pre-activation"],
    ]
    assert max(map(len, shown.stdout.splitlines())) <= 80


def test_status_cuts_no_name_of_a_file(keystore: Path) -> None:
    shown = runner.invoke(app, ["keystore", "status", "-k", str(keystore)], env={"COLUMNS": "60"})
    assert f"keys/wal.2.{later_key(keystore)}.key\n" in shown.stdout


def test_the_log_is_in_words(keystore: Path, place: Path) -> None:
    run("backup", place / "copy", "-k", keystore)
    shown = run("log", "-k", keystore).stdout
    assert re.search(r"activate keys: .*wal\.key \(WAL\)", shown)
    assert "auto-open.key no" in shown
    assert not re.search(r"[{\[]'|True|False|None", shown)


def test_history_of_all_and_of_one(keystore: Path) -> None:
    shown = run("history", "-k", keystore).stdout
    today = f"{datetime.now(timezone.utc):%Y-%m-%d}"
    assert re.search(rf"^wal +active +{today} +{today} +- +-$", shown, re.MULTILINE)
    assert f"master key: of {today}, replaced 0 times" in shown
    one = run("history", "wal", "-k", keystore).stdout
    assert re.search(r"activated: WAL of .*/main", one)
    assert re.search(r"Created +.* UTC, entry 2 of the key log", one)
    for name in ("wal.2", f"wal.2.{later_key(keystore)}.key", later_key(keystore)):
        (found,) = document("history", name, "-k", keystore)["keys"]
        assert found["key"] == f"wal.2.{later_key(keystore)}"
    wrong = run("history", "wal.3", "-k", keystore, code=5)
    assert "no key with the name wal.3" in wrong.stderr


def test_a_mark_is_told_with_what_to_do(keystore: Path) -> None:
    shown = run("mark", "wal", "suspended", "-k", keystore, "--reason", "a \x1b[2J laptop")
    assert shown.stdout == "wal is suspended\n"
    assert "tde wal rotate -D DIR" in shown.stderr
    status = run("status", "-k", keystore)
    assert "the key of the WAL is marked as suspended and still in use" in status.stderr
    assert "\033" not in run("history", "wal", "-k", keystore).stdout + status.stderr
    assert run("mark", "wal", "active", "-k", keystore, "--reason", "found").stderr == ""
    run("mark", "wal", "stolen", "-k", keystore, "--reason", "x", code=2)
    run("mark", "wal", "suspended", "-k", keystore, code=2)


def in_days(monkeypatch: pytest.MonkeyPatch, days: int) -> None:
    """Let the keystore be made so many days ago, by a clock that was behind."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) - timedelta(days=days)

    monkeypatch.setattr(log_entry, "datetime", Clock)


def test_old_keys_are_told(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        in_days(patch, 100)
        with Keystore.create(place / "ks", PASSPHRASE, kdf=CHEAP_KDF) as created:
            created.create_key(KeyOwner.wal(), Algorithm.AES256)
            activate_keys(created, {KeyOwner.wal(): "WAL"}, Place(place / "main"))
            created.enable_auto_open()
    keystore = place / "ks"
    assert "Age" not in run("status", "-k", keystore).stderr
    assert run("max-age", "--wal", "90d", "-k", keystore).stdout == (
        "Keys of WAL: an age limit of 90 days\n"
    )
    run("max-age", "--master", 120, "-k", keystore)
    run("max-age", "--passphrase", 300, "-k", keystore)
    status = run("status", "-k", keystore).stderr
    assert "Age: the key of the WAL is 100 days old, and its limit of 90 was reached on" in status
    assert "HINT: tde wal rotate -D DIR" in status
    assert "Age: the master key is 100 days old, and reaches its limit of 120 on" in status
    assert f"HINT: tde keystore rotate --keystore {keystore}" in status
    assert "passphrase" not in status
    ages = document("status", "-k", keystore)["key_ages"]
    assert [(age["what"], age["verdict"], age["max_age_days"]) for age in ages] == [
        ("master key", "soon", 120),
        ("passphrase", "good", 300),
        ("key of the WAL", "over", 90),
    ]
    (key,) = document("list", "-k", keystore)["keys"]
    assert (key["age_days"], key["max_age_days"]) == (100, 90)
    run("max-age", "wal", "none", "-k", keystore)
    run("max-age", "--all", "none", "-k", keystore)
    assert document("status", "-k", keystore)["key_ages"] == []


@pytest.mark.parametrize(
    "words",
    [
        ["365d"],
        ["--all", "--wal", "365d"],
        ["--all", "wal", "365d"],
        ["wal", "0"],
        ["wal", "-1"],
        ["--wal", "1y"],
        ["--wal", "36501"],
        ["--wal", "٣"],
    ],
)
def test_limits_that_mean_nothing_are_refused(keystore: Path, words: list[str]) -> None:
    before = (keystore / "key.log").read_bytes()
    run("max-age", *words, "-k", keystore, code=2)
    assert (keystore / "key.log").read_bytes() == before


# Destruction. Clusters that need keys are in tests/postgres/tablespace/test_keys_of_clusters.py.


def test_the_id_must_be_typed(keystore: Path, place: Path) -> None:
    with Keystore.open_automatically(keystore) as opened:
        tell_of_place(opened, place / "gone", 1)
    refused = run(*DESTROY, "-k", keystore, "--yes", later_key(keystore), code=5)
    assert f"tde keystore forget-cluster {place}/main" in refused.stderr
    for gone in ("main", "gone"):
        run("forget-cluster", place / gone, "-k", keystore)
    again = run("forget-cluster", place / "gone", "-k", keystore, code=5)
    assert "Those that it knows: none" in again.stderr
    file = place / "receipt.json"
    destroy = [*DESTROY, "-k", keystore, "--receipt", file]
    assert "there is no terminal" in run(*destroy, code=1).stderr
    for wrong in ("", "wal.2", later_key(keystore)[:-1], str(UUID(int=0))):
        assert "is not the id of the key" in run(*destroy, "--yes", wrong, code=1).stderr
    command = [*TDE, "keystore", *map(str, destroy)]
    # The terminal shows what is typed, so that is no prompt for a passphrase.
    shown, code = type_on_terminal(command, "no")
    assert (code, "Nothing was destroyed" in shown) == (1, True)
    assert len(list((keystore / "keys").glob("wal.2.*.key"))) == 1
    key_id = later_key(keystore)
    shown, code = type_on_terminal(command, key_id)
    assert code == 0, shown
    assert "can never be read again" in shown
    assert not list((keystore / "keys").glob("wal.2.*"))
    assert json.loads(file.read_bytes())["key"] == f"wal.2.{key_id}.key"
    genuine = run("receipt", file, "-k", keystore)
    assert f"is genuine: wal.2.{key_id}.key (AES-128-XTS) was destroyed by" in genuine.stdout
    # Again, for another receipt; never over one that is there.
    assert "exists already" in run(*destroy, "--yes", key_id, code=1).stderr
    run(
        "destroy",
        "wal.2",
        "--no-cluster",
        "-k",
        keystore,
        "--yes",
        key_id,
        "--receipt",
        place / "again.json",
    )
    assert (place / "again.json").read_bytes() == file.read_bytes()
    (one,) = document("history", "wal.2", "-k", keystore)["keys"]
    assert (one["state"], one["present"]) == ("destroyed", False)
    assert [one["key"] for one in document("list", "-k", keystore)["keys"]] == ["wal"]


def type_on_terminal(command: list[str], text: str) -> tuple[str, int]:
    """Answer a question on a terminal by what stands in its input already."""
    script = f"import pty, sys; sys.exit(pty.spawn({command!r}) >> 8)"
    spawn = shlex.join([sys.executable, "-c", script])
    return run_on_terminal(["sh", "-c", f"echo {text} | {spawn}"], [])


def test_a_place_without_room_for_a_receipt_is_refused_first(keystore: Path, place: Path) -> None:
    run("forget-cluster", place / "main", "-k", keystore)
    destroy = [
        "destroy",
        "wal.2",
        "--no-cluster",
        "-k",
        keystore,
        "--yes",
        later_key(keystore),
        "--receipt",
    ]
    shown = run(*destroy, place / "none" / "r.json", code=1)
    assert "Nothing was destroyed" in shown.stderr
    full = run(*destroy, "/dev/full/x", code=1)
    assert "Nothing was destroyed" in full.stderr
    assert later_key(keystore)


def test_a_receipt_of_others_is_no_proof(keystore: Path, place: Path) -> None:
    run("forget-cluster", place / "main", "-k", keystore)
    file = place / "r.json"
    key_id = later_key(keystore)
    record = (keystore / "keys" / f"wal.2.{key_id}.key").read_bytes()
    run(*DESTROY, "-k", keystore, "--yes", key_id, "--receipt", file)
    text = file.read_text()
    file.write_text(text.replace('"algorithm": "AES-128-XTS"', '"algorithm": "AES-256-XTS"'))
    shown = run("receipt", file, "-k", keystore, code=1)
    assert "it was altered: its code does not fit" in shown.stderr
    file.write_text(text)
    assert document("receipt", file, "-k", keystore)["in_log"] is True
    events = [entry.event for entry in read_key_log(keystore).entries]
    assert "key destroyed" in events
    # Put back by hand, the key is named by whoever looks, whatever the receipt says.
    back = keystore / "keys" / f"wal.2.{key_id}.key"
    back.write_bytes(record)
    back.chmod(0o600)
    assert "this keystore has the key wal.2." in run("receipt", file, "-k", keystore, code=1).stderr
    assert "somebody has put it back" in run("list", "-k", keystore).stderr
    assert "somebody has put it back" in run("verify", "-k", keystore, code=1).stdout
    back.unlink()
    # A log that was replaced by an older one still proves the code, and says what it lacks.
    log = keystore / "key.log"
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:5]))
    shown = run("receipt", file, "-k", keystore)
    assert "does not have the entries that it names" in shown.stderr


def test_the_first_key_of_wal_is_never_destroyed(keystore: Path) -> None:
    shown = run("destroy", "wal", "-k", keystore, "--yes", "wal", code=5)
    assert "cannot be destroyed" in shown.stderr


@pytest.mark.slow
def test_ten_thousand_keys_and_their_history_take_a_second(
    keystore: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Written without a sync for each, which is not what is measured, and by nobody in particular.
    who = log_entry.current_author()
    monkeypatch.setattr(log_entry, "current_author", lambda: who)
    with Keystore.open_automatically(keystore) as opened:
        lines = (keystore / "key.log").read_bytes().splitlines(keepends=True)
        author = opened.log_author()
        for number in range(10_000):
            owner = KeyOwner.named(UUID(int=number))
            file = keystore / "keys" / owner.file_name
            file.write_bytes(opened.new_record(owner, Algorithm.AES256))
            file.chmod(0o600)
            created = {"key": owner.file_name, "algorithm": "AES-256-XTS", "state": "x"}
            used = {"cluster": "/srv/pg/main", "keys": {owner.file_name: "tablespace 16400"}}
            for event, details in (("create key", created), ("activate keys", used)):
                previous = hashlib.sha256(lines[-1]).digest()
                line = log_entry.pack_entry(len(lines) + 1, previous, event, details, author)
                lines.append(line)
        (keystore / "key.log").write_bytes(b"".join(lines))
    for verb in ("list", "history"):
        # Not the time on the clock, which others on this machine take too; the better of two.
        costs = []
        for _ in range(2):
            start = time.process_time()
            shown = run(verb, "-k", keystore)
            costs.append(time.process_time() - start)
        assert len(re.findall(r"^0{28}\w+ .* active ", shown.stdout, re.MULTILINE)) == 10_000
        assert "altered" not in shown.stderr
        assert min(costs) < 2.5  # Alone on the machine it is less than one.
