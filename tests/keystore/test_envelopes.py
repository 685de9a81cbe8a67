"""Envelopes: what a provider opens, what a forger gains, and what an outage does."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path

import pytest

from tde.algorithms import Algorithm
from tde.errors import (
    KeystoreDamagedError,
    KeystoreError,
    KeystoreExistsError,
    KeystoreMissingError,
    KeystorePermissionError,
    KeystoreVersionError,
    PassphraseError,
    ProviderError,
    ProviderRefusedError,
    ProviderUnreachableError,
)
from tde.keystore import (
    KeyOwner,
    Keystore,
    back_up_keystore,
    change_passphrase,
    inspect_keystore,
    list_providers,
    read_key_log,
    remove_envelope,
    restore_keystore,
    rotate_master_key,
    try_envelope,
    verify_keystore,
)
from tde.keystore.opening import open_keystore
from tde.keystore.providers.passphrase import PassphraseProvider
from tde.keystore.providers.passphrase_source import PassphraseSource
from tde.keystore.store.document import checksum
from tests.keystore.cheap_passphrase import CHEAP_KDF, PASSPHRASE
from tests.keystore.third_party import Xor

NEW = b"another passphrase"


@pytest.fixture
def keystore(tmp_path: Path) -> Keystore:
    made = Keystore.create(tmp_path / "ks", PASSPHRASE, kdf=CHEAP_KDF)
    made.create_key(KeyOwner.wal(), Algorithm.AES256)
    for oid in (1663, 1664):
        made.create_plaintext_entry(oid)
    return made


def key_by(path: Path, name: str = "xor") -> bytes:
    with open_keystore(path, PassphraseSource(provider=name)) as opened:
        return bytes(opened.unwrap_key(KeyOwner.wal()))


def rewrite(file: Path, **changes: object) -> None:
    """Change fields as a forger would, with a checksum that fits."""
    fields = json.loads(file.read_bytes())
    fields.update(changes)
    del fields["checksum"]
    fields["checksum"] = checksum(fields)
    file.write_bytes(json.dumps(fields, indent=2).encode() + b"\n")


# What it opens.


def test_a_provider_of_somebody_else_opens_the_same_keys(keystore: Keystore, xor: Xor) -> None:
    file = xor.add(keystore)
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    assert file.name == f"xor.{keystore.master_key_id.hex}.json"
    assert key_by(keystore.path) == keystore.unwrap_key(KeyOwner.wal())
    assert inspect_keystore(keystore.path).providers == ["xor"]
    assert all(checked.good for checked in verify_keystore(keystore.path, keystore))


def test_what_opened_it_is_in_the_key_log(keystore: Keystore, xor: Xor) -> None:
    xor.add(keystore, unattended=True)
    open_keystore(keystore.path).close()
    xor.behave("refuse")
    with pytest.raises(ProviderRefusedError):
        key_by(keystore.path)
    remove_envelope(keystore.path, "xor")
    log = read_key_log(keystore.path, keystore.log_author())
    assert log.problems == []
    told = [(entry.event, dict(entry.details)) for entry in log.entries[-4:]]
    assert len(told[0][1].pop("sha256")) == 64
    assert told == [
        (
            "add provider",
            {
                "provider": "xor",
                "type": "xor",
                "unattended": True,
                "level": "full",
                "cache seconds": 0,
            },
        ),
        ("open keystore", {"with": "provider xor (xor)"}),
        ("fail to open keystore", {"why": "ProviderRefusedError", "provider": "xor"}),
        ("remove provider", {"provider": "xor"}),
    ]


def test_the_provider_sees_no_master_key(keystore: Keystore, xor: Xor) -> None:
    """What it wraps is another key, for each envelope and each rotation."""
    xor.add(keystore, "one")
    xor.add(keystore, "two")
    headers = [info.header for info in list_providers(keystore.path)]
    first, second = (header.wrapped_kek for header in headers if header)
    assert len({first, second}) == 2
    rotate_master_key(keystore.path, PASSPHRASE).close()
    header = list_providers(keystore.path)[0].header
    assert header is not None
    assert header.wrapped_kek not in (first, second)


def test_a_passphrase_change_leaves_envelopes_alone(keystore: Keystore, xor: Xor) -> None:
    before = xor.add(keystore).read_bytes()
    change_passphrase(keystore.path, PassphraseProvider(PASSPHRASE), NEW)
    assert xor.add(keystore, "other").exists()
    key_by(keystore.path)
    assert list_providers(keystore.path)[1].file.read_bytes() == before


def test_unattended_ones_are_tried_in_order_of_name(
    keystore: Keystore, xor: Xor, caplog: pytest.LogCaptureFixture
) -> None:
    other = Xor(xor.place.parent / "other")
    xor.add(keystore, "b", unattended=True, level="wal")
    other.add(keystore, "a", unattended=True)
    xor.add(keystore, "never")
    with open_keystore(keystore.path, for_server=True) as opened:
        assert (opened.level, opened.by_hand) == ("full", False)
    other.behave("away")
    with open_keystore(keystore.path, for_server=True) as opened:
        assert opened.level == "wal"
    assert [record.getMessage() for record in caplog.records] == ["provider a (xor): it is away"]
    xor.behave("refuse")
    with pytest.raises(PassphraseError) as caught:
        open_keystore(keystore.path, for_server=True)
    assert "a (xor): it is away; provider b (xor): it will not" in str(caught.value)
    assert "never" not in str(caught.value)
    # A named source means only that.
    with pytest.raises(ProviderUnreachableError):
        key_by(keystore.path, "a")


def test_auto_open_goes_before_providers(keystore: Keystore, xor: Xor) -> None:
    xor.add(keystore, unattended=True)
    keystore.enable_auto_open()
    before = len(xor.asked)
    open_keystore(keystore.path).close()
    assert len(xor.asked) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_root_asks_as_the_owner_of_the_keystore(place: Path, xor: Xor) -> None:
    """Or whoever owns it could have any program run as root."""
    path = place / "ks"
    with Keystore.create(path, PASSPHRASE, kdf=CHEAP_KDF, owner=(65534, 65534)) as made:
        xor.add(made)
    key = try_envelope(path, "xor")
    assert key.problem == ""
    assert set(xor.asked) == {65534}
    assert {file.stat().st_uid for file in (path / "unlock", *(path / "unlock").iterdir())} == {
        65534
    }


# What is refused.


def test_names_and_types_and_parameters(keystore: Keystore, xor: Xor) -> None:
    for name in ("", "A", "1a", "a" * 32, "a.b", "../a", "all", "a\n"):
        with pytest.raises(KeystoreError, match="cannot be called"):
            xor.add(keystore, name)
    xor.add(keystore)
    with pytest.raises(KeystoreExistsError, match="has a provider xor already"):
        xor.add(keystore)
    from tde.keystore import add_envelope

    with pytest.raises(ProviderError, match="no provider of type none is installed"):
        add_envelope(keystore, "a", "none", {})
    with pytest.raises(ProviderError, match="needs the parameter place"):
        add_envelope(keystore, "a", "xor", {})
    with pytest.raises(ProviderError, match="has no parameter other"):
        add_envelope(keystore, "a", "xor", {"place": "/", "other": "1"})
    with pytest.raises(KeystoreError, match="cannot have these parameters"):
        add_envelope(keystore, "a", "xor", {"place": "/", "note": "a\x1b[2J"})
    with pytest.raises(KeystoreMissingError, match="has no provider a") as caught:
        key_by(keystore.path, "a")
    assert caught.value.remedy == "It has: xor."
    assert [info.name for info in list_providers(keystore.path)] == ["xor"]


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ("away", ProviderUnreachableError, "provider xor .xor.: it is away"),
        ("refuse", ProviderRefusedError, "provider xor .xor.: it will not"),
        ("die", ProviderError, "provider xor .xor.: its process died without an answer"),
        ("hang", ProviderUnreachableError, "it has not answered in 2 seconds"),
    ],
)
def test_a_provider_that_fails_changes_nothing(
    keystore: Keystore, xor: Xor, how: str, error: type[Exception], message: str
) -> None:
    xor.behave(how)
    with pytest.raises(error, match=message):
        xor.add(keystore)
    assert not (keystore.path / "unlock").exists()
    xor.behave()
    xor.add(keystore)
    wanted = key_by(keystore.path)
    before = {file: file.read_bytes() for file in keystore.path.rglob("*.*") if file.is_file()}
    xor.behave(how)
    with pytest.raises(error, match=message):
        key_by(keystore.path)
    with pytest.raises(error, match="the master key cannot be rotated") as caught:
        rotate_master_key(keystore.path, PASSPHRASE)
    assert "tde keystore provider test xor" in caught.value.remedy  # type: ignore[attr-defined]
    assert "tde keystore provider remove xor" in caught.value.remedy  # type: ignore[attr-defined]
    after = {file: file.read_bytes() for file in keystore.path.rglob("*.*") if file.is_file()}
    changed = {file.name for file in before if before[file] != after.get(file)}
    assert (changed, after.keys() - before.keys()) == ({"key.log"}, set())
    # What did not work can be done without, and then the rotation is not held up.
    remove_envelope(keystore.path, "xor")
    rotate_master_key(keystore.path, PASSPHRASE).close()
    with Keystore.open(keystore.path, PASSPHRASE) as opened:
        assert bytes(opened.unwrap_key(KeyOwner.wal())) == wanted


def test_a_provider_that_gives_another_key_is_never_kept(keystore: Keystore, xor: Xor) -> None:
    xor.add(keystore)
    xor.behave("wrong")
    with pytest.raises(KeystoreDamagedError, match="was altered, or its provider has given"):
        key_by(keystore.path)
    trial = try_envelope(keystore.path, "xor")
    assert "given another key" in trial.problem


def test_nothing_is_left_of_what_hung(keystore: Keystore, xor: Xor) -> None:
    xor.add(keystore)
    xor.behave("hang")
    with pytest.raises(ProviderUnreachableError):
        key_by(keystore.path)
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    assert children == []


# Forgers.


FORGED = (
    {"parameters": {"place": "/elsewhere"}},
    {"unattended": True},
    {"cache_seconds": 60},
    {"type": "command"},
    {"wrapped_kek": "00" * 32},
    {"nonce": "00" * 12},
    {"wrapped_master_key": "00" * 48},
    {"code": "00" * 32},
)


@pytest.mark.parametrize("changes", FORGED, ids=lambda changes: next(iter(changes)))
def test_no_field_can_be_changed(keystore: Keystore, xor: Xor, changes: dict[str, object]) -> None:
    """With a checksum that fits: then the provider, or the master key, does not open."""
    file = xor.add(keystore)
    rewrite(file, **changes)
    with pytest.raises(KeystoreError):
        key_by(keystore.path)
    # A rotation would wrap the new master key for whoever stands there.
    before = len(xor.asked)
    with pytest.raises(KeystoreDamagedError, match="was altered") as caught:
        rotate_master_key(keystore.path, PASSPHRASE)
    assert len(xor.asked) == before
    assert "tde keystore provider remove xor" in caught.value.remedy
    (bad,) = [one for one in verify_keystore(keystore.path, keystore) if not one.good]
    assert (bad.file, "was altered" in bad.problem) == (file, True)


HOSTILE = (
    (b"", "not JSON"),
    (b"[" * 60_000, "not JSON"),
    (b"{" + b'"a":' * 5 + b"}", "not JSON"),
    (b"null", "no envelope"),
    (b'{"format":"tde-keystore"}', "no envelope"),
    (b'{"format":"tde-unlock","version":1,"checksum":null}', "checksum"),
    (b"9" * 70_000, "more than"),
)


@pytest.mark.parametrize(("content", "why"), HOSTILE, ids=[why for _, why in HOSTILE])
def test_hostile_files_are_named(keystore: Keystore, xor: Xor, content: bytes, why: str) -> None:
    file = xor.add(keystore, unattended=True)
    file.write_bytes(content)
    with pytest.raises(KeystoreDamagedError, match=why) as caught:
        key_by(keystore.path)
    assert str(file) in str(caught.value)
    (info,) = list_providers(keystore.path)
    assert (info.header, why in info.problem) == (None, True)
    # It neither opens by itself nor keeps the passphrase from opening.
    with pytest.raises(PassphraseError, match="no passphrase was given"):
        open_keystore(keystore.path)
    bad = [one for one in verify_keystore(keystore.path, keystore) if not one.good]
    assert [one.file for one in bad] == [file]
    Keystore.open(keystore.path, PASSPHRASE).close()


@pytest.mark.parametrize(
    "changes",
    [
        {"unattended": 1},
        {"cache_seconds": True},
        {"cache_seconds": 10**9},
        {"level": "wal"},
        {"level": "none"},
        {"parameters": []},
        {"parameters": {"place": 1}},
        {"parameters": {"PLACE": "/"}},
        {"parameters": {"place": "a\x1b[2J"}},
        {"name": "../../x"},
        {"keystore": "00"},
        {"master_key_id": "0" * 33},
        {"wrapped_kek": ""},
        {"wrapped_kek": "AA"},
        {"nonce": "00"},
        {"wrapped_master_key": "00"},
        {"code": "00"},
        {"more": 1},
    ],
    ids=str,
)
def test_values_that_tde_does_not_write(
    keystore: Keystore, xor: Xor, changes: dict[str, object]
) -> None:
    file = xor.add(keystore)
    before = len(xor.asked)
    rewrite(file, **changes)
    with pytest.raises(KeystoreDamagedError):
        key_by(keystore.path)
    assert len(xor.asked) == before


def test_another_version_and_every_flipped_bit(keystore: Keystore, xor: Xor) -> None:
    file = xor.add(keystore)
    content = file.read_bytes()
    rewrite(file, version=2)
    with pytest.raises(KeystoreVersionError, match="envelope format 2"):
        key_by(keystore.path)
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= 1 << position % 8
        file.write_bytes(changed)
        (info,) = list_providers(keystore.path)
        assert info.problem, position


def test_envelopes_of_other_keystores_names_and_master_keys(
    keystore: Keystore, xor: Xor, tmp_path: Path
) -> None:
    file = xor.add(keystore)
    content = file.read_bytes()
    with Keystore.create(tmp_path / "other", PASSPHRASE, kdf=CHEAP_KDF) as other:
        theirs = xor.add(other)
    swapped = file.with_name(f"two.{keystore.master_key_id.hex}.json")
    swapped.write_bytes(content)
    swapped.chmod(0o600)
    file.write_bytes(theirs.read_bytes())
    for name in ("two", "xor"):
        with pytest.raises(KeystoreDamagedError, match="of another keystore, master key or name"):
            key_by(keystore.path, name)
    swapped.unlink()
    # Renamed inside as well, it is authentic for another name only.
    file.write_bytes(content)
    rewrite(file, name="two")
    file.rename(swapped)
    with pytest.raises(KeystoreDamagedError, match="was altered, or its provider has given"):
        key_by(keystore.path, "two")
    swapped.unlink()
    # From before a rotation, it has a master key that nothing is wrapped with.
    file.write_bytes(content)
    file.chmod(0o600)
    with rotate_master_key(keystore.path, PASSPHRASE) as rotated:
        file.write_bytes(content)
        file.chmod(0o600)
        key_by(keystore.path)
        (unused,) = [one for one in verify_keystore(keystore.path, rotated) if one.unused]
        assert unused.file == file
        back = file.with_name(f"xor.{rotated.master_key_id.hex}.json")
        back.write_bytes(content)
    with pytest.raises(KeystoreDamagedError, match="of another keystore, master key or name"):
        key_by(keystore.path)
    back.unlink()
    with pytest.raises(KeystoreMissingError, match="has another master key than keystore"):
        key_by(keystore.path)


def test_links_owners_and_modes(keystore: Keystore, xor: Xor, tmp_path: Path) -> None:
    file = xor.add(keystore, unattended=True)
    unlock = file.parent
    elsewhere = tmp_path / "elsewhere"
    for path, mode in ((file, 0o640), (unlock, 0o750)):
        before = path.stat().st_mode & 0o777
        path.chmod(mode)
        with pytest.raises(KeystorePermissionError, match="open to other users"):
            key_by(keystore.path)
        path.chmod(before)
    file.rename(elsewhere)
    file.symlink_to(elsewhere)
    with pytest.raises(KeystoreError, match="could not read"):
        key_by(keystore.path)
    file.unlink()
    os.mkfifo(file, 0o600)
    with pytest.raises(KeystorePermissionError, match="not a regular file"):
        key_by(keystore.path)
    file.unlink()
    elsewhere.rename(file)
    if os.geteuid() == 0:
        os.chown(file, 65534, 65534)
        with pytest.raises(KeystorePermissionError, match="belongs to user"):
            key_by(keystore.path)
        os.chown(file, 0, 0)
    unlock.rename(elsewhere)
    unlock.symlink_to(elsewhere)
    for attempt in (lambda: key_by(keystore.path), lambda: list_providers(keystore.path)):
        with pytest.raises(KeystoreError):
            attempt()
    with pytest.raises(PassphraseError, match="and the keystore does not open by itself"):
        open_keystore(keystore.path)
    (damaged,) = [one for one in verify_keystore(keystore.path, keystore) if not one.good]
    assert damaged.file == unlock
    Keystore.open(keystore.path, PASSPHRASE).close()


# Copies.


def test_backups_take_envelopes_and_bring_them_back(
    keystore: Keystore, xor: Xor, tmp_path: Path
) -> None:
    xor.add(keystore)
    copied = back_up_keystore(keystore.path, tmp_path / "backup")
    assert copied.providers == ["xor"]
    assert copied.left_out == []
    assert key_by(tmp_path / "backup") == keystore.unwrap_key(KeyOwner.wal())
    restore_keystore(tmp_path / "backup", tmp_path / "restored")
    key_by(tmp_path / "restored")
    # Where only keystore.json was lost, what is there stays.
    xor.add(keystore, "newer")
    (keystore.path / "keystore.json").unlink()
    restore_keystore(tmp_path / "backup", keystore.path)
    assert [info.name for info in list_providers(keystore.path)] == ["newer", "xor"]
    key_by(keystore.path, "newer")


def test_a_backup_has_no_envelopes_of_other_master_keys(
    keystore: Keystore, xor: Xor, tmp_path: Path
) -> None:
    file = xor.add(keystore)
    left = file.with_name(f"xor.{'0' * 32}.json")
    left.write_bytes(b"what a rotation has left")
    left.chmod(0o600)
    back_up_keystore(keystore.path, tmp_path / "backup")
    assert [one.name for one in (tmp_path / "backup" / "unlock").iterdir()] == [file.name]
    rotate_master_key(keystore.path, PASSPHRASE).close()
    assert not left.exists()


# Two at once.


def test_of_several_with_one_name_one_is_added(keystore: Keystore, xor: Xor) -> None:
    context = multiprocessing.get_context("fork")
    start = context.Barrier(4)

    def add() -> None:
        start.wait()
        try:
            xor.add(keystore)
        except KeystoreExistsError:
            os._exit(1)
        os._exit(0)

    writers = [context.Process(target=add) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert sorted(writer.exitcode or 0 for writer in writers) == [0, 1, 1, 1]
    key_by(keystore.path)


def test_rotations_and_openings_at_the_same_time(keystore: Keystore, xor: Xor) -> None:
    """Of keystore.json and an envelope one may be read before a rotation, and one after it."""
    xor.add(keystore)
    context = multiprocessing.get_context("fork")
    start = context.Barrier(2)

    def rotate() -> None:
        start.wait()
        for _ in range(4):
            rotate_master_key(keystore.path, PASSPHRASE).close()

    rotating = context.Process(target=rotate)
    rotating.start()
    start.wait()
    count = 0
    while rotating.is_alive():
        open_keystore(keystore.path, PassphraseSource(provider="xor")).close()
        count += 1
    rotating.join()
    assert rotating.exitcode == 0
    assert count
    key_by(keystore.path)
