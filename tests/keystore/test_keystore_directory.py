"""Creating, opening and using a keystore."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import stat
import tempfile
from pathlib import Path

import pytest

from tde.algorithms import Algorithm
from tde.errors import (
    KeyMissingError,
    KeystoreClosedError,
    KeystoreDamagedError,
    KeystoreError,
    KeystoreExistsError,
    KeystoreMissingError,
    KeystorePermissionError,
    PassphraseError,
    PlaintextEntryError,
    WrongPassphraseError,
)
from tde.keystore import KeyOwner, Keystore, inspect_keystore
from tde.keystore.store import files
from tde.keystore.store.files import write_atomically
from tests.keystore.cheap_passphrase import CHEAP_KDF, PASSPHRASE

WAL = KeyOwner.wal()
DEFAULT = KeyOwner.tablespace(1663)


@pytest.fixture
def keystore(tmp_path: Path) -> Keystore:
    return Keystore.create(tmp_path / "ks", PASSPHRASE, kdf=CHEAP_KDF)


def test_created_keystore_opens_again_with_the_same_keys(keystore: Keystore) -> None:
    keystore.create_key(WAL, Algorithm.AES256)
    keystore.create_key(DEFAULT, Algorithm.AES128)
    before = keystore.unwrap_key(WAL), keystore.unwrap_key(DEFAULT)
    keystore.close()
    with Keystore.open(keystore.path, PASSPHRASE) as again:
        assert (again.unwrap_key(WAL), again.unwrap_key(DEFAULT)) == before
        assert (again.uuid, again.master_key_id) == (keystore.uuid, keystore.master_key_id)


def test_keys_have_the_length_of_their_algorithm_and_two_different_halves(
    keystore: Keystore,
) -> None:
    for oid, algorithm in enumerate(Algorithm, start=1):
        keystore.create_key(KeyOwner.tablespace(oid), algorithm)
        key = keystore.unwrap_key(KeyOwner.tablespace(oid))
        half = algorithm.key_bytes // 2
        assert len(key) == algorithm.key_bytes
        assert key[:half] != key[half:]


def test_a_generator_that_repeats_itself_makes_no_key(
    keystore: Keystore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill_with_ones(view: memoryview) -> None:
        view[:] = b"\x01" * len(view)

    monkeypatch.setattr("tde.keystore.open_master_key.fill_randomly", fill_with_ones)
    with pytest.raises(OSError, match="repeats itself"):
        keystore.create_key(WAL, Algorithm.AES128)
    assert inspect_keystore(keystore.path).keys == []


def test_everything_is_private_to_the_owner(tmp_path: Path) -> None:
    # A careless umask must not open the keystore to anybody.
    old_umask = os.umask(0)
    try:
        keystore = Keystore.create(tmp_path / "ks", PASSPHRASE, kdf=CHEAP_KDF)
        keystore.create_key(WAL, Algorithm.AES256)
    finally:
        os.umask(old_umask)
    paths = [keystore.path, *keystore.path.rglob("*")]
    modes = {str(path.relative_to(tmp_path)): stat.S_IMODE(path.stat().st_mode) for path in paths}
    assert modes == {
        "ks": 0o700,
        "ks/key.log": 0o600,
        "ks/keys": 0o700,
        "ks/keys/wal.key": 0o600,
        "ks/keystore.json": 0o600,
        "ks/lock": 0o600,
    }


def test_no_file_contains_a_key_or_the_passphrase(keystore: Keystore) -> None:
    keystore.create_key(DEFAULT, Algorithm.AES256)
    with keystore.hand_over() as handed:
        master_key = os.pread(handed.fd, 32, 48)
    key = bytes(keystore.unwrap_key(DEFAULT))
    for path in keystore.path.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            for secret in (PASSPHRASE, master_key, key, key[:32], key[32:]):
                assert secret not in content
                assert secret.hex().encode() not in content


def test_a_key_is_never_replaced(keystore: Keystore) -> None:
    keystore.create_key(DEFAULT, Algorithm.AES256)
    before = keystore.unwrap_key(DEFAULT)
    with pytest.raises(KeystoreExistsError, match="tablespace 1663 already has a key"):
        keystore.create_key(DEFAULT, Algorithm.AES256)
    with pytest.raises(KeystoreExistsError):
        keystore.create_plaintext_entry(1663)
    assert keystore.unwrap_key(DEFAULT) == before


def test_plaintext_entry_has_no_key(keystore: Keystore) -> None:
    keystore.create_plaintext_entry(1663)
    with pytest.raises(PlaintextEntryError, match="tablespace 1663 is recorded as not encrypted"):
        keystore.unwrap_key(DEFAULT)
    (entry,) = inspect_keystore(keystore.path).keys
    assert entry.algorithm is None


def test_missing_key_is_named(keystore: Keystore) -> None:
    with pytest.raises(KeyMissingError, match=r"tablespace 4711: .*keys/4711\.key") as caught:
        keystore.unwrap_key(KeyOwner.tablespace(4711))
    assert "backup" in caught.value.remedy


def test_closed_keystore_gives_nothing(keystore: Keystore) -> None:
    keystore.create_key(WAL, Algorithm.AES256)
    assert keystore.is_open
    keystore.close()
    keystore.close()
    assert not keystore.is_open
    for use in (
        lambda: keystore.unwrap_key(WAL),
        lambda: keystore.create_key(DEFAULT, Algorithm.AES256),
        lambda: keystore.create_plaintext_entry(1664),
        keystore.hand_over,
    ):
        with pytest.raises(KeystoreClosedError) as caught:
            use()
        assert str(caught.value) == (
            "could not encrypt or decrypt data because the keystore is not open"
        )
        assert caught.value.remedy == (
            "Open the existing keystore, or set the master encryption key to create and open "
            "a new keystore"
        )
    assert len(inspect_keystore(keystore.path).keys) == 1


def test_closing_wipes_the_master_key_at_once(keystore: Keystore) -> None:
    # Held here, so that garbage collection cannot do what close() is for.
    master_key = keystore._master_key
    assert master_key is not None
    keystore.close()
    with pytest.raises(ValueError, match="closed"):
        _ = master_key.view


def test_a_wrong_passphrase_is_refused(keystore: Keystore) -> None:
    with pytest.raises(WrongPassphraseError, match="wrong passphrase"):
        Keystore.open(keystore.path, b"correct house")


@pytest.mark.parametrize("length", [0, 7, 201])
def test_passphrase_of_a_wrong_length_creates_nothing(tmp_path: Path, length: int) -> None:
    with pytest.raises(PassphraseError, match=r"^passphrase is too short or too long$"):
        Keystore.create(tmp_path / "ks", b"x" * length, kdf=CHEAP_KDF)
    assert not (tmp_path / "ks").exists()


def test_opening_what_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path / "none" / "below"):
        with pytest.raises(KeystoreMissingError, match="there is no keystore at"):
            Keystore.open(path, PASSPHRASE)
    empty = tmp_path / "empty"
    empty.mkdir(mode=0o700)
    with pytest.raises(KeystoreMissingError, match=r"no keystore\.json"):
        Keystore.open(empty, PASSPHRASE)


def test_second_creation_is_refused_and_changes_nothing(keystore: Keystore) -> None:
    before = (keystore.path / "keystore.json").read_bytes()
    with pytest.raises(KeystoreExistsError, match="already a keystore"):
        Keystore.create(keystore.path, PASSPHRASE, kdf=CHEAP_KDF)
    assert (keystore.path / "keystore.json").read_bytes() == before


def test_creation_uses_an_empty_directory_only(tmp_path: Path) -> None:
    directory = tmp_path / "ks"
    directory.mkdir(mode=0o700)
    (directory / "notes.txt").write_text("mine")
    with pytest.raises(KeystoreExistsError, match=r"not empty: it contains notes\.txt"):
        Keystore.create(directory, PASSPHRASE, kdf=CHEAP_KDF)
    (directory / "notes.txt").unlink()
    Keystore.create(directory, PASSPHRASE, kdf=CHEAP_KDF).close()


def test_creation_never_shadows_keys_whose_document_was_lost(keystore: Keystore) -> None:
    keystore.create_key(WAL, Algorithm.AES256)
    (keystore.path / "keystore.json").unlink()
    for use in (Keystore.create, Keystore.open):
        with pytest.raises(KeystoreDamagedError, match=r"keystore\.json, which opens them"):
            use(keystore.path, PASSPHRASE)


def test_keystore_inside_a_data_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "PG_VERSION").write_text("15\n")
    with pytest.raises(KeystoreError, match="inside the PostgreSQL data directory"):
        Keystore.create(tmp_path / "sub" / "ks", PASSPHRASE, kdf=CHEAP_KDF)


def test_creation_needs_a_parent_that_exists(tmp_path: Path) -> None:
    with pytest.raises(KeystoreMissingError, match="no does not exist") as caught:
        Keystore.create(tmp_path / "no" / "ks", PASSPHRASE, kdf=CHEAP_KDF)
    assert caught.value.remedy == f"mkdir -p {tmp_path / 'no'}"
    with pytest.raises(KeystoreMissingError) as caught:
        Keystore.create(tmp_path / "with blank" / "ks", PASSPHRASE, kdf=CHEAP_KDF)
    assert caught.value.remedy == f"mkdir -p '{tmp_path / 'with blank'}'"


@pytest.mark.parametrize("name", ["vault://host/key", "pkcs11:/token/ks", "~/tde/ks", "~dba/ks"])
def test_no_directory_is_proposed_for_what_is_none(tmp_path: Path, name: str) -> None:
    with pytest.raises(KeystoreMissingError, match="does not exist") as caught:
        Keystore.create(tmp_path / name, PASSPHRASE, kdf=CHEAP_KDF)
    assert caught.value.remedy
    assert "mkdir" not in caught.value.remedy


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_root_creates_and_extends_the_keystore_of_another_user(tmp_path: Path) -> None:
    keystore = Keystore.create(tmp_path / "ks", PASSPHRASE, kdf=CHEAP_KDF, owner=(65534, 65534))
    keystore.create_key(WAL, Algorithm.AES256)
    for path in [keystore.path, *keystore.path.rglob("*")]:
        assert (path.stat().st_uid, path.stat().st_gid) == (65534, 65534), path


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_file_of_another_user_is_refused(keystore: Keystore) -> None:
    document = keystore.path / "keystore.json"
    os.chown(document, 65534, 65534)
    with pytest.raises(KeystorePermissionError, match="belongs to user 65534"):
        Keystore.open(keystore.path, PASSPHRASE)


@pytest.mark.parametrize("mode", [0o710, 0o701, 0o750, 0o777])
def test_directory_open_to_others_is_refused(keystore: Keystore, mode: int) -> None:
    keystore.path.chmod(mode)
    with pytest.raises(KeystorePermissionError, match=f"mode {mode:04o}") as caught:
        Keystore.open(keystore.path, PASSPHRASE)
    assert caught.value.remedy == f"chmod 0700 {keystore.path}"


@pytest.mark.parametrize("name", ["keystore.json", "keys/wal.key"])
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620, 0o666])
def test_file_open_to_others_is_refused(keystore: Keystore, name: str, mode: int) -> None:
    keystore.create_key(WAL, Algorithm.AES256)
    (keystore.path / name).chmod(mode)
    with pytest.raises(KeystorePermissionError, match="open to other users") as caught:
        inspect_keystore(keystore.path)
    assert caught.value.remedy == f"chmod 0600 {keystore.path / name}"


def test_symbolic_link_in_place_of_a_file_is_refused(keystore: Keystore, tmp_path: Path) -> None:
    document = keystore.path / "keystore.json"
    document.rename(tmp_path / "elsewhere")
    document.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(KeystoreError, match="could not read"):
        Keystore.open(keystore.path, PASSPHRASE)


def test_fifo_in_place_of_a_file_does_not_hang(keystore: Keystore) -> None:
    document = keystore.path / "keystore.json"
    document.unlink()
    os.mkfifo(document, 0o600)
    with pytest.raises(KeystorePermissionError, match="not a regular file"):
        Keystore.open(keystore.path, PASSPHRASE)


def test_status_lists_the_wal_first_and_ignores_other_files(keystore: Keystore) -> None:
    for oid in (16400, 1664, 1663):
        keystore.create_key(KeyOwner.tablespace(oid), Algorithm.AES128)
    keystore.create_key(WAL, Algorithm.AES256)
    for name in ("007.key", "x.key", ".key", "1663.key.1", ".1663.key.tmp"):
        (keystore.path / "keys" / name).touch(0o600)
    found = inspect_keystore(keystore.path)
    assert [key.file.name for key in found.keys] == ["wal.key", "1663.key", "1664.key", "16400.key"]
    assert [key.algorithm for key in found.keys] == [Algorithm.AES256] + [Algorithm.AES128] * 3
    assert (found.uuid, found.master_key_id, found.kdf) == (
        keystore.uuid,
        keystore.master_key_id,
        CHEAP_KDF,
    )


def test_what_is_replaced_does_not_stay_beside_the_new(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for content in (b"one", b"two", b"three"):
        write_atomically(path, content)
    contents = {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()}
    assert contents == {"file": b"three"}


def test_repr_shows_no_key(keystore: Keystore) -> None:
    with keystore.hand_over() as handed:
        master_key = os.pread(handed.fd, 32, 48)
    shown = repr(keystore) + str(vars(keystore))
    assert master_key.hex() not in shown
    assert repr(master_key)[2:-1] not in shown
    assert "open" in repr(keystore)


def test_hand_over_is_sealed_inheritable_and_closed_at_the_end(keystore: Keystore) -> None:
    with keystore.hand_over() as handed:
        fd = handed.fd
        assert handed.environment == {"TDE_IO_KEYS_FD": str(fd)}
        assert os.get_inheritable(fd)
        for change in (
            lambda: os.pwrite(fd, b"x", 0),
            lambda: os.ftruncate(fd, 0),
            lambda: os.ftruncate(fd, 4096),
            lambda: fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE),
        ):
            with pytest.raises(PermissionError):
                change()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_hand_over_is_never_standard_input_or_output(keystore: Keystore) -> None:
    child = os.fork()
    if child == 0:
        # As after `tde pg start <&- >&-`: the next files that are opened get these numbers.
        os.closerange(0, 3)
        with keystore.hand_over() as handed:
            taken = [fd for fd in range(3) if Path(f"/proc/self/fd/{fd}").exists()]
            os._exit(0 if handed.fd > 2 and not taken else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_hand_over_layout(keystore: Keystore) -> None:
    with keystore.hand_over() as handed:
        content = os.read(handed.fd, 4096)
    path = os.fsencode(keystore.path)
    assert content[:8] == b"TDEHAND\x01"
    assert int.from_bytes(content[8:12], "big") == len(content) == 82 + len(path)
    assert content[12:16] == bytes(4)
    assert content[16:32] == keystore.uuid.bytes
    assert content[32:48] == keystore.master_key_id.bytes
    assert content[48:80] != bytes(32)
    assert int.from_bytes(content[80:82], "big") == len(path)
    assert content[82:] == path


def test_document_is_the_documented_one(keystore: Keystore) -> None:
    fields = json.loads((keystore.path / "keystore.json").read_bytes())
    assert {key: type(value) for key, value in fields.items()} == {
        "format": str,
        "version": int,
        "uuid": str,
        "created": str,
        "kdf": dict,
        "master_key": dict,
        "checksum": str,
    }
    assert list(fields["kdf"]) == ["name", "memory_kib", "iterations", "lanes", "salt"]
    assert list(fields["master_key"]) == ["id", "nonce", "wrapped"]
    assert len(bytes.fromhex(fields["master_key"]["wrapped"])) == 32 + 16


@pytest.mark.skipif(os.geteuid() != 0, reason="only root could be led astray")
def test_root_is_not_led_out_of_the_keystore_by_its_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attack: the server's user puts a link in the place of keys/ while root makes a key."""
    place = Path(tempfile.mkdtemp())  # Which its owner can reach, as below /srv.
    place.chmod(0o755)
    roots = tmp_path / "roots"
    roots.mkdir(mode=0o700)

    def exchange_and_write(path: Path, data: bytes) -> None:
        path.parent.rmdir()
        path.parent.symlink_to(roots)
        write_atomically(path, data)

    def exchange_again(directory: Path, fd: int) -> None:
        if directory.is_symlink():
            directory.unlink()
            directory.mkdir()

    try:
        keystore = Keystore.create(place / "ks", PASSPHRASE, kdf=CHEAP_KDF, owner=(65534, 65534))
        monkeypatch.setattr("tde.keystore.keystore.write_atomically", exchange_and_write)
        monkeypatch.setattr(files, "give_to_owner_of", exchange_again)
        with keystore, pytest.raises((KeystoreError, OSError)):
            keystore.create_key(WAL, Algorithm.AES256)
        assert list(roots.iterdir()) == []
    finally:
        shutil.rmtree(place)
