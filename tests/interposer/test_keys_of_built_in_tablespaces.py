"""pg_default and pg_global: the map says their keys once they were rekeyed, for every program."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tde import Algorithm, FileIdentity
from tde.keystore import KeyOwner, Keystore
from tde.page.reference import encrypt_pages
from tde.postgres.cluster.keymap import KEYMAP_FILE, KeySource, MapEntry, map_key, pack_map
from tests.interposer.harness import Harness, make_data_directory, make_keystore

FILES = {1663: "base/5/16384", 1664: "global/1262"}
PAGE = bytes(range(256)) * 32


@pytest.fixture
def own(tmp_path: Path) -> Keystore:
    with make_keystore(tmp_path / "own-keystore") as keystore:
        yield keystore


def store(data: Path, keystore: Keystore, owners: dict[int, KeyOwner]) -> None:
    """Write a page of each tablespace, encrypted with these keys."""
    for oid, name in FILES.items():
        key = bytes(keystore.unwrap_key(owners[oid]))
        found = FileIdentity.from_path(name)
        (data / name).write_bytes(encrypt_pages(key, PAGE, found.identity, 0))


def read(harness: Harness, driver: Path, data: Path | str) -> list[str]:
    """Let a program read both pages; returns what it says of them."""
    prefix = f"{data}/" if data else ""
    script = "".join(
        f"open 0 {prefix}{name} r\npread 0 8192 0\nclose 0\n" for name in FILES.values()
    )
    return harness.run(driver, script, check=False).splitlines()


@pytest.fixture
def expected(tmp_path: Path, build: Callable[..., Path]) -> list[str]:
    plain = make_data_directory(tmp_path / "plain")
    for name in FILES.values():
        (plain / name).write_bytes(PAGE)
    return read(Harness(plain, None), build(), "")


@pytest.mark.parametrize("program", ["postgres", "pg_checksums"])
def test_the_map_wins_over_the_records(tmp_path, build, own, expected, program):
    data = make_data_directory(tmp_path / "base" / "data")
    ids = {oid: own.create_named_key(Algorithm.AES128) for oid in FILES}
    entries = [MapEntry(oid, KeySource.REKEYED, key_id) for oid, key_id in ids.items()]
    (data / KEYMAP_FILE).write_bytes(pack_map(entries, own.uuid, map_key(own)))
    store(data, own, {oid: KeyOwner.named(key_id) for oid, key_id in ids.items()})
    driver = build("plain", program)
    if program == "postgres":  # It works in its data directory, and others need not.
        assert read(Harness(data, own), driver, "") == expected
        return
    elsewhere = make_data_directory(tmp_path / "elsewhere")
    assert read(Harness(elsewhere, own), driver, data) == expected
    # The records of before serve where the map says nothing.
    store(data, own, {oid: KeyOwner.tablespace(oid) for oid in FILES})
    assert read(Harness(elsewhere, own), driver, data) != expected
    (data / KEYMAP_FILE).write_bytes(pack_map([], own.uuid, map_key(own)))
    assert read(Harness(elsewhere, own), driver, data) == expected


@pytest.mark.parametrize("marker", [None, 1, 2])
def test_without_a_map_nothing_is_guessed_where_there_was_one(
    tmp_path, build, own, expected, marker
):
    """initdb's server has none yet, nor has a cluster of a release before the map."""
    data = make_data_directory(tmp_path / "data")
    store(data, own, {oid: KeyOwner.tablespace(oid) for oid in FILES})
    if marker is not None:
        document = {"version": marker, "keystore_uuid": own.uuid.hex}
        (data / "tde.json").write_text(json.dumps(document, indent=1))
    elsewhere = make_data_directory(tmp_path / "elsewhere")
    found = read(Harness(elsewhere, own), build("plain", "pg_checksums"), data)
    if marker == 2:
        assert found[0] == "open: -1 Required key not available"
    else:
        assert found == expected
