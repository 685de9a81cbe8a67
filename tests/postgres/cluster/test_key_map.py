"""The key map of a cluster: damage is refused with a message, and older clusters get one."""

from __future__ import annotations

from uuid import UUID

import psycopg2
import pytest

from tde.algorithms import Algorithm
from tde.errors import ClusterKeystoreError, KeyMapError
from tde.keystore import KeyOwner
from tde.postgres import create_tablespace, list_tablespaces
from tde.postgres.cluster.keymap import (
    KEYMAP_FILE,
    KeyMap,
    KeySource,
    MapEntry,
    map_key,
    pack_map,
    parse_map,
    read_map,
    write_map,
)
from tests.postgres.cluster_copies import make_directory
from tests.postgres.older_releases import landed

KEYSTORE = UUID(int=0x11 << 120)
KEY = bytes(range(32))
ENTRIES = (
    MapEntry(16384, KeySource.DERIVED),
    MapEntry(16385, KeySource.RECORD),
    MapEntry(16386, KeySource.NAMED, UUID(int=0x77 << 120)),
    MapEntry(16384, KeySource.NAMED, UUID(int=0x78 << 120)),
)


def test_the_last_entry_of_a_tablespace_counts(tmp_path):
    found = parse_map(pack_map(ENTRIES, KEYSTORE, KEY), tmp_path, KEYSTORE, KEY)
    assert found.entries == {16384: ENTRIES[3], 16385: ENTRIES[1], 16386: ENTRIES[2]}
    assert found.find(1663) == MapEntry(1663, KeySource.RECORD)
    assert found.find(16387) is None


def test_every_shorter_map_is_an_older_one(tmp_path):
    """A backup tool copies as many bytes as there were when it looked."""
    whole = pack_map(ENTRIES, KEYSTORE, KEY)
    assert len(whole) == 64 * 5
    for length in range(64, len(whole)):
        found = parse_map(whole[:length], tmp_path, KEYSTORE, KEY)
        assert found.entries == KeyMap(ENTRIES[: length // 64 - 1]).entries
        padded = whole[: length // 64 * 64] + bytes(100)
        assert parse_map(padded, tmp_path, KEYSTORE, KEY).entries == found.entries
    with pytest.raises(KeyMapError, match="shorter than its header"):
        parse_map(whole[:63], tmp_path, KEYSTORE, KEY)


def test_every_changed_byte_is_noticed(tmp_path):
    whole = pack_map(ENTRIES, KEYSTORE, KEY)
    for at in range(len(whole)):
        changed = bytearray(whole)
        changed[at] ^= 1
        with pytest.raises(KeyMapError):
            parse_map(bytes(changed), tmp_path, KEYSTORE, KEY)
    swapped = whole[:64] + whole[128:192] + whole[64:128] + whole[192:]
    with pytest.raises(KeyMapError, match="was altered"):
        parse_map(swapped, tmp_path, KEYSTORE, KEY)


def test_damage_is_refused_by_the_start_and_by_the_server(
    any_binaries, encrypted_cluster_factory, os_user_tmp_path
):
    made = encrypted_cluster_factory(any_binaries)
    path = made.data_directory / KEYMAP_FILE
    empty = path.read_bytes()
    location = make_directory(made, os_user_tmp_path / "space")
    made.query(f"CREATE TABLESPACE space LOCATION '{location}'")
    made.query("CREATE TABLE t TABLESPACE space AS SELECT 1 AS x")
    good = path.read_bytes()
    assert good.startswith(empty)
    assert len(good) == 128
    foreign = pack_map((), KEYSTORE, map_key(made.keystore))
    damages = {
        "was altered": good[:-1] + bytes([good[-1] ^ 1]),
        "shorter than its header": good[:10],
        "belongs to another keystore": foreign,
        "does not say what key tablespace": empty,
        "No such file": None,
    }
    other = make_directory(made, os_user_tmp_path / "other")
    made.cluster.restart(made.keystore)
    for message, content in damages.items():
        # The server has read the map at its start, and reads it again when it makes a tablespace.
        path.unlink(missing_ok=True) if content is None else path.write_bytes(content)
        made.query("SELECT * FROM t")
        if content != empty:  # Which is as authentic as a map of before.
            with pytest.raises(psycopg2.Error, match="Required key not available"):
                made.query(f"CREATE TABLESPACE other LOCATION '{other}'")
            (left,) = other.iterdir()
            left.rmdir()
            assert message in made.cluster.default_log.read_text()
    path.write_bytes(good)
    made.cluster.stop()
    for message, content in damages.items():
        path.unlink(missing_ok=True) if content is None else path.write_bytes(content)
        with pytest.raises(KeyMapError, match=message) as caught:
            made.cluster.start(made.keystore)
        assert (
            f"estore {KEYMAP_FILE} from the newest base backup of this server"
            in caught.value.remedy
        )
    path.write_bytes(good)
    made.start()
    assert made.query("SELECT x FROM t") == [(1,)]


def test_a_cluster_of_an_earlier_release_gets_its_map(
    any_binaries, encrypted_cluster_factory, os_user_tmp_path
):
    made = encrypted_cluster_factory(any_binaries)
    oids = {}
    for name in ("derived", "own", "empty"):
        location = make_directory(made, os_user_tmp_path / name)
        made.query(f"CREATE TABLESPACE {name} LOCATION '{location}'")
        oids[name] = made.query("SELECT oid FROM pg_tablespace WHERE spcname = %s", (name,))[0][0]
    made.cluster.stop()
    # As an earlier tde tablespace create: the key's file is named after the tablespace.
    record = made.keystore.create_key(KeyOwner.tablespace(oids["own"]), Algorithm.AES128)
    (file,) = record
    entries = [MapEntry(oid, KeySource.DERIVED) for oid in oids.values()]
    entries[1] = MapEntry(oids["own"], KeySource.RECORD)
    write_map(made.data_directory, entries, made.keystore, made.cluster.os_user)
    made.start()
    for name in ("derived", "own"):
        made.query(f"CREATE TABLE {name} TABLESPACE {name} AS SELECT 1 AS x")
    made.cluster.stop()
    landed(made)

    file.rename(file.with_suffix(".lost"))
    with pytest.raises(ClusterKeystoreError, match="a key of their own") as caught:
        made.cluster.start(made.keystore)
    assert "Bring it from a backup of the keystore" in caught.value.remedy
    assert not (made.data_directory / KEYMAP_FILE).exists()
    file.with_suffix(".lost").rename(file)

    made.start()
    assert made.cluster.marker.has_map
    found = read_map(made.data_directory, made.keystore.uuid, map_key(made.keystore))
    assert found.entries == {entry.oid: entry for entry in entries}
    for name in ("derived", "own"):
        assert made.query(f"SELECT x FROM {name}") == [(1,)]
    made.query("CREATE TABLE empty TABLESPACE empty AS SELECT 1 AS x")
    # What is made from now on has a key with a name, beside those.
    created = create_tablespace(
        made.cluster, made.keystore, "new", os_user_tmp_path / "new", Algorithm.AES256
    )
    protections = {t.name: t.protection for t in list_tablespaces(made.cluster, None)}
    assert protections["own"] == "AES-128-XTS"
    assert protections["new"] == protections["derived"] == "AES-256-XTS"
    made.query("CREATE TABLE new TABLESPACE new AS SELECT 1 AS x")
    made.cluster.stop("immediate")
    made.start()
    assert made.query("SELECT count(*) FROM new, own, derived, empty") == [(1,)]
    assert (
        read_map(made.data_directory, made.keystore.uuid, map_key(made.keystore))
        .find(created.oid)
        .source
        is KeySource.NAMED
    )
