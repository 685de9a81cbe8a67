"""pg_combinebackup with backups whose key maps differ: it ends before it writes anything."""

from __future__ import annotations

from uuid import UUID

import pytest

from tde.postgres.cluster.keymap import KEYMAP_FILE, KeySource, MapEntry, map_key, pack_map
from tests.interposer.harness import Harness

COMMON = MapEntry(16384, KeySource.DERIVED)
ONE = MapEntry(16500, KeySource.NAMED, UUID(int=1))
OTHER = MapEntry(16500, KeySource.NAMED, UUID(int=2))
REKEYED = MapEntry(16500, KeySource.REKEYED, UUID(int=3))
DEFAULT = MapEntry(1663, KeySource.REKEYED, UUID(int=4))
NEW = MapEntry(16600, KeySource.DERIVED)
DAMAGED = b"no map"
FOREIGN = object()


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        ([(COMMON,), (COMMON, ONE), (COMMON, ONE, NEW)], ""),
        # What only one of them has is in no other, so no block of it is combined.
        ([(COMMON, ONE), (COMMON, NEW)], ""),
        ([(COMMON, ONE), (COMMON, NEW), (COMMON, OTHER)], "tablespace 16500 has one key in"),
        ([(COMMON, ONE, OTHER), (COMMON, OTHER)], ""),
        ([(COMMON, OTHER, ONE), (COMMON, OTHER)], "tablespace 16500 has one key in"),
        # Those that initdb makes are in every backup, before their rekey without an entry.
        ([(COMMON,), (COMMON, DEFAULT)], "tablespace 1663 has one key in"),
        ([(COMMON, DEFAULT), (COMMON,)], "tablespace 1663 has one key in"),
        ([(DEFAULT, COMMON), (COMMON, DEFAULT)], ""),
        ([(ONE,), (ONE, REKEYED)], "tablespace 16500 has one key in"),
        ([None, (COMMON,)], "has no key map"),
        ([(COMMON,), None], "has no key map"),
        ([None, None], ""),
        ([(COMMON,), FOREIGN], "belong to different keystores"),
        ([(COMMON,), DAMAGED], "it is not a key map of this version of tde"),
    ],
)
def test_maps_are_compared_before_anything_is_written(tmp_path, keystore, build, maps, message):
    data = tmp_path / "run"
    data.mkdir()
    (data / KEYMAP_FILE).touch()  # The harness makes none here.
    (data / "script.txt").write_text("fopen script.txt r\n")
    backups = [tmp_path / f"backup{number}" for number in range(len(maps))]
    for directory, entries in zip(backups, maps, strict=True):
        directory.mkdir()
        (directory / "PG_VERSION").write_text("18\n")
        if isinstance(entries, bytes):
            (directory / KEYMAP_FILE).write_bytes(entries)
        elif entries is FOREIGN:
            (directory / KEYMAP_FILE).write_bytes(pack_map((), UUID(int=9), bytes(32)))
        elif entries is not None:
            content = pack_map(entries, keystore.uuid, map_key(keystore))
            # A backup tool may have filled up what it could not read.
            (directory / KEYMAP_FILE).write_bytes(content + bytes(100))
    (tmp_path / "output").mkdir()
    run = Harness(data, keystore).execute(
        build("plain", "pg_combinebackup"),
        ["script.txt", "-o", str(tmp_path / "output"), *map(str, backups)],
        check=False,
    )
    assert message in run.stderr
    assert ("nothing was written" in run.stderr) is bool(message)
    assert run.returncode == (1 if message else 0)
