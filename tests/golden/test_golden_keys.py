"""Key records and the key map are read exactly as they are on users' disks, in C and in Python."""

from __future__ import annotations

import hashlib
from pathlib import Path
from uuid import UUID

import pytest

from tde import Algorithm, _core
from tde.errors import KeyMapError
from tde.keystore import KeyOwner, read_key_log
from tde.keystore.crypto.derivation import derive_authentication_key
from tde.keystore.crypto.secret import SecretBuffer
from tde.keystore.log.entry import LABEL
from tde.keystore.providers.envelope_provider import open_envelope
from tde.keystore.store.envelope import kek_context, parse_envelope
from tde.keystore.store.record import parse_record
from tde.postgres.cluster.keymap import KeySource, MapEntry, pack_map, parse_map
from tests.golden import make_keys
from tests.golden.make_keys import KEY, KEY_ID, KEYSTORE, MAP_KEY, MASTER_KEY, MASTER_KEY_ID

HERE = Path(__file__).parent
SHA256 = {
    "v1-key.log": "82c79381dc0d0dcfa84ed053556a8f358d10fbeaa29074969ece02f97792f34a",
    "v1-unlock.json": "31de7d5d560f2fbdd20b6bc9585fcb658d8e6e7f92689e09369aeae969e6e79f",
    "v1-tablespace.key": "de3752516c48100fbed3b04fbf60f0d87281981f72e06c6f6f31ab47cfe3571c",
    "v2-named.key": "41f38d271ccd15d153e849d0c5ef6d46e1b1ec0235a846aa062a223b4e818a40",
    "v2-later-wal.key": "2c925195782f5f067e563c6c154da36c5841696c97de0848a9170213d805e4fb",
    "v1-rotated-wal.keymap": "d2cec4873a4118375253483854988cda8dea182de35f8ca60c1b30a8e860483a",
    "v1-tde.keymap": "81bb00582b680520763c3ffdb35e64e28291abc6ae00101564b3613a9676a3aa",
    "v1-rekeyed-tde.keymap": "b7280a576bd213f4d28d8827ddcb117c895a7aa5fb274db8f4dcd7c6523c95ec",
}


@pytest.mark.parametrize("name", SHA256)
def test_the_files_are_as_released(name: str) -> None:
    content = (HERE / name).read_bytes()
    assert hashlib.sha256(content).hexdigest() == SHA256[name]
    assert content == make_keys.FILES[name]


def test_the_records_unwrap() -> None:
    scope = (KEYSTORE, MASTER_KEY_ID, MASTER_KEY)
    first = (HERE / "v1-tablespace.key").read_bytes()
    named = (HERE / "v2-named.key").read_bytes()
    wal = (HERE / "v2-later-wal.key").read_bytes()
    assert _core.unwrap_key_record(first, *scope, 2, 1663) == (2, KEY)
    assert _core.unwrap_key_record(named, *scope, 4, 0, KEY_ID) == (2, KEY)
    assert _core.unwrap_key_record(wal, *scope, 5, 2, KEY_ID) == (2, KEY)
    for owner, number in ((5, 3), (4, 2)):
        with pytest.raises(ValueError, match="another owner"):
            _core.unwrap_key_record(wal, *scope, owner, number, KEY_ID)
    with pytest.raises(ValueError, match="another key than its name says"):
        _core.unwrap_key_record(named, *scope, 4, 0, KEY_ID[::-1])
    with pytest.raises(ValueError, match="another owner"):
        _core.unwrap_key_record(first, *scope, 4, 0, KEY_ID)
    for content, owner in (
        (first, KeyOwner.tablespace(1663)),
        (named, KeyOwner.named(UUID(bytes=KEY_ID))),
        (wal, KeyOwner.later_wal(2, UUID(bytes=KEY_ID))),
    ):
        record = parse_record(content, "golden")
        assert record.header.owner == owner
        assert record.header.algorithm is Algorithm.AES256
        assert record.pack() == content


def test_the_envelope_opens() -> None:
    path = HERE / "v1-unlock.json"
    content = path.read_bytes()
    found = parse_envelope(content, path)
    assert found.encode() == content
    header = found.header
    assert (header.name, header.type, header.level) == ("officers-2", "vault", "wal")
    assert (header.unattended, header.cache_seconds) == (True, 43200)
    assert header.parameters == {"address": "https://vault:8200", "key": "tde é"}
    assert header.wrapped_kek == make_keys.WRAPPED_KEK
    assert kek_context(header.keystore, header.master_key_id, header.name) == (
        b"tde-unlock:1:101112131415161718191a1b1c1d1e1f:202122232425262728292a2b2c2d2e2f:officers-2"
    )
    with SecretBuffer(32) as kek:
        with kek.view as view:
            view[:] = make_keys.KEK
        with open_envelope(HERE, found, kek) as master_key, master_key.view as view:
            assert view == MASTER_KEY


def test_the_log_is_read_and_proven(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    log = tmp_path / "key.log"
    log.write_bytes((HERE / "v1-key.log").read_bytes())
    log.chmod(0o600)
    secret = derive_authentication_key(bytearray(MASTER_KEY), LABEL)
    found = read_key_log(tmp_path, (UUID(bytes=MASTER_KEY_ID), secret))
    assert (found.problems, found.confirmed) == ([], 3)
    assert [entry.event for entry in found.entries] == [
        "create keystore", "rotate master key", "open keystore",
    ]  # fmt: skip
    assert found.entries[0].who["login"] == "alice"


ENTRIES = (
    MapEntry(16384, KeySource.DERIVED),
    MapEntry(16385, KeySource.RECORD),
    MapEntry(16386, KeySource.NAMED, UUID(bytes=KEY_ID)),
    MapEntry(16384, KeySource.NAMED, UUID(bytes=KEY_ID[::-1])),
)
REKEYED = (
    MapEntry(1663, KeySource.REKEYED, UUID(bytes=KEY_ID)),
    MapEntry(16386, KeySource.REKEYED, UUID(bytes=KEY_ID[::-1])),
)


@pytest.mark.parametrize(
    ("name", "entries"),
    [("v1-tde.keymap", ENTRIES), ("v1-rekeyed-tde.keymap", ENTRIES + REKEYED)],
)
def test_the_map_is_read_and_written(name: str, entries: tuple[MapEntry, ...]) -> None:
    path = HERE / name
    content = path.read_bytes()
    found = parse_map(content, path, UUID(bytes=KEYSTORE), MAP_KEY)
    assert found.entries == {entry.oid: entry for entry in entries}
    assert found.history == entries
    assert pack_map(entries, UUID(bytes=KEYSTORE), MAP_KEY) == content
    assert _core.check_keymap(content, KEYSTORE, MAP_KEY) == len(content)
    for length in range(64, len(content)):
        assert _core.check_keymap(content[:length], KEYSTORE, MAP_KEY) == length // 64 * 64
    for at in range(len(content)):
        changed = bytearray(content)
        changed[at] ^= 1
        with pytest.raises(ValueError, match="cannot be used"):
            _core.check_keymap(changed, KEYSTORE, MAP_KEY)


def test_a_map_says_what_wal_is_written_with() -> None:
    path = HERE / "v1-rotated-wal.keymap"
    content = path.read_bytes()
    ids = [UUID(bytes=KEY_ID), UUID(bytes=KEY_ID[::-1])]
    entries = (
        MapEntry(16384, KeySource.DERIVED),
        *(MapEntry(0, KeySource.WAL, key_id) for key_id in ids),
        MapEntry(0, KeySource.WAL_READ, UUID(bytes=make_keys.FOREIGN_ID)),
    )
    found = parse_map(content, path, UUID(bytes=KEYSTORE), MAP_KEY)
    assert found.entries == {16384: entries[0]}
    assert found.wal_keys == ids
    assert found.foreign_wal_keys == [UUID(bytes=make_keys.FOREIGN_ID)]
    assert pack_map(entries, UUID(bytes=KEYSTORE), MAP_KEY) == content
    assert _core.check_keymap(content, KEYSTORE, MAP_KEY) == len(content)
    # Only WAL is no tablespace, and WAL is none.
    for entry in (MapEntry(5, KeySource.WAL, ids[0]), MapEntry(0, KeySource.NAMED, ids[0])):
        wrong = pack_map([entry], UUID(bytes=KEYSTORE), MAP_KEY)
        with pytest.raises(ValueError, match="not known to this version"):
            _core.check_keymap(wrong, KEYSTORE, MAP_KEY)
        with pytest.raises(KeyMapError, match="not known to this version"):
            parse_map(wrong, path, UUID(bytes=KEYSTORE), MAP_KEY)
