"""tde tablespace rekey --same-keys-as: maps that are stale, and runs that were interrupted."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest

from tde.algorithms import Algorithm
from tde.convert import runner
from tde.errors import ConversionError
from tde.keystore import KeyOwner
from tde.postgres import rekey_tablespaces
from tde.postgres.cluster.keymap import (
    KEYMAP_FILE,
    KeyMap,
    KeySource,
    MapEntry,
    map_key,
    pack_map,
    read_map,
)
from tests.convert.conversions import content
from tests.convert.interruptions import die, die_in_write, run_until


def map_of(cluster, keystore) -> KeyMap:
    return read_map(cluster.data_directory, keystore.uuid, map_key(keystore))


def map_of_other(cluster, keystore, name: str, *rekeyed: int) -> Path:
    """Write the map of a node that has parted from this one and been rekeyed."""
    entries = list(map_of(cluster, keystore).history)
    for oid in rekeyed:
        entry = MapEntry(oid, KeySource.REKEYED, uuid4())
        keystore.create_key(KeyOwner.named(entry.key_id), Algorithm.AES256)
        entries.append(entry)
    path = keystore.path.with_name(name)
    path.write_bytes(pack_map(entries, keystore.uuid, map_key(keystore)))
    return path


def die_before_the_journal_goes() -> None:
    runner.remove_journal = lambda _directory: die()


def test_a_stale_map_does_not_bring_a_replaced_key_back(original, encrypted):
    cluster, keystore = encrypted
    stale = []
    for number in range(2):  # The first map knows no rekey, the second an earlier one.
        stale.append(map_of_other(cluster, keystore, f"stale{number}"))
        rekey_tablespaces(cluster, keystore, ["pg_global", original.tablespace])
    before = content(cluster.data_directory)
    for path in stale:
        for asked in (["pg_global"], [original.tablespace]):
            with pytest.raises(ConversionError, match="that this cluster has replaced") as caught:
                rekey_tablespaces(cluster, keystore, asked, same_keys_as=path)
            assert "Name the newest map" in caught.value.remedy
    assert content(cluster.data_directory) == before
    newer = map_of_other(cluster, keystore, "newer", 1664)
    done = rekey_tablespaces(cluster, keystore, every=True, same_keys_as=newer)
    assert done.tablespaces == [1664]


def test_a_replaced_key_does_not_become_that_of_another_tablespace(encrypted):
    cluster, keystore = encrypted
    rekey_tablespaces(cluster, keystore, ["pg_global"])
    retired = map_of(cluster, keystore).entries[1664].key_id
    rekey_tablespaces(cluster, keystore, ["pg_global"])
    path = keystore.path.with_name("other.keymap")
    entry = MapEntry(1663, KeySource.REKEYED, retired)
    path.write_bytes(pack_map([entry], keystore.uuid, map_key(keystore)))
    with pytest.raises(ConversionError, match="1663 would get a key that tablespace 1664 has or"):
        rekey_tablespaces(cluster, keystore, ["pg_default"], same_keys_as=path)


def test_a_run_for_more_tablespaces_than_differ_is_repeated(original, encrypted, tde_command):
    cluster, keystore = encrypted
    other = map_of_other(cluster, keystore, "other.keymap", 1664)
    asked = ["pg_global", "secret"]

    def rekey():
        return rekey_tablespaces(cluster, keystore, asked, same_keys_as=other)

    assert run_until(die_in_write(1, 1), rekey)
    with pytest.raises(ConversionError, match="begun with other tablespaces"):
        rekey_tablespaces(cluster, keystore, ["pg_global"], same_keys_as=other)
    assert rekey().tablespaces == [1664]
    # The same, when only the removal of the journal is left.
    other = map_of_other(cluster, keystore, "third.keymap", 1664)
    assert run_until(die_before_the_journal_goes, rekey)
    assert rekey().resumed

    other = map_of_other(cluster, keystore, "fourth.keymap", 1664)
    shown = tde_command(
        *("tablespace", "rekey", *asked, "-D", cluster.data_directory, "-k", keystore.path),
        *("--same-keys-as", other, "--passphrase-fd", "0"),
    )
    assert "have the keys of the other node" in shown.stdout
    assert "new keys" not in shown.stdout


def test_keys_of_another_node_are_not_ignored_by_a_run_that_continues(encrypted):
    cluster, keystore = encrypted
    other = map_of_other(cluster, keystore, "other.keymap", 1663, 1664)
    asked = ["pg_default", "pg_global"]
    assert run_until(die_in_write(1, 1), lambda: rekey_tablespaces(cluster, keystore, asked))
    before = content(cluster.data_directory)
    with pytest.raises(ConversionError, match="begun with other keys than --same-keys-as names"):
        rekey_tablespaces(cluster, keystore, asked, same_keys_as=other)
    assert content(cluster.data_directory) == before
    assert run_until(die_before_the_journal_goes, lambda: rekey_tablespaces(cluster, keystore))
    # That run is over, so this is another one.
    assert not rekey_tablespaces(cluster, keystore, asked, same_keys_as=other).resumed
    entries = map_of(cluster, keystore).history[-2:]
    assert all(entry.key_id.bytes in other.read_bytes() for entry in entries)


def test_another_map_is_noticed_before_the_next_block(encrypted):
    cluster, keystore = encrypted
    path = cluster.data_directory / KEYMAP_FILE
    older = path.read_bytes()
    rekey_tablespaces(cluster, keystore, every=True)
    newer = path.read_bytes()
    assert run_until(die_in_write(1, 1), lambda: rekey_tablespaces(cluster, keystore, every=True))
    path.write_bytes(older)
    before = content(cluster.data_directory)
    with pytest.raises(ConversionError, match="is not the map with which the rekey began"):
        rekey_tablespaces(cluster, keystore)
    assert content(cluster.data_directory) == before
    path.write_bytes(newer)
    assert rekey_tablespaces(cluster, keystore).resumed
