"""pg_rewind between clusters that have different keys for one tablespace."""

from __future__ import annotations

from uuid import UUID

import pytest

from tde.postgres.cluster.keymap import KEYMAP_FILE, KeySource, MapEntry, map_key, pack_map
from tests.interposer.harness import Harness

COMMON = MapEntry(16384, KeySource.DERIVED)
ONE = MapEntry(16500, KeySource.NAMED, UUID(int=1))
OTHER = MapEntry(16500, KeySource.NAMED, UUID(int=2))
DEFAULT = MapEntry(1663, KeySource.REKEYED, UUID(int=3))
NEW = MapEntry(16600, KeySource.DERIVED)


@pytest.mark.parametrize(
    ("target", "source", "message"),
    [
        ((COMMON, ONE), (COMMON, ONE), ""),
        # What only one of them has is removed, or copied as a whole.
        ((COMMON, ONE), (COMMON, NEW), ""),
        ((COMMON, ONE), (COMMON, NEW, OTHER), "tablespace 16500 has one key in"),
        # Those that initdb makes are in both, before their rekey without an entry.
        ((COMMON, DEFAULT), (COMMON,), "tablespace 1663 has one key in"),
        ((COMMON,), (COMMON, DEFAULT), "tablespace 1663 has one key in"),
        ((DEFAULT,), (COMMON, DEFAULT), ""),
        ((COMMON,), None, "has no key map"),
        (None, (COMMON,), "has no key map"),
        (None, None, ""),
    ],
)
@pytest.mark.parametrize(
    "spellings",
    [
        (["--target-pgdata={}"], ["--source-pgdata", "{}"]),
        (["-D", "{}"], ["--source-pg={}"]),
        (["-PD", "{}"], ["--source-p", "{}"]),
        (["-cPD{}"], ["--source-pgdata={}"]),
    ],
    ids=["long", "abbreviated", "clustered", "attached"],
)
def test_keys_are_compared_before_anything_is_changed(
    tmp_path, keystore, build, target, source, message, spellings
):
    data = tmp_path / "run"
    data.mkdir()
    (data / KEYMAP_FILE).touch()  # The harness makes none here.
    (data / "script.txt").write_text("fopen script.txt r\n")
    for name, entries in (("target", target), ("source", source)):
        (tmp_path / name / "pg_wal").mkdir(parents=True)
        if entries is not None:
            content = pack_map(entries, keystore.uuid, map_key(keystore))
            (tmp_path / name / KEYMAP_FILE).write_bytes(content)
    target_options = [spelling.format(tmp_path / "target") for spelling in spellings[0]]
    source_options = [spelling.format(tmp_path / "source") for spelling in spellings[1]]
    run = Harness(data, keystore).execute(
        build("plain", "pg_rewind"),
        ["script.txt", "-R", *target_options, *source_options],
        check=False,
    )
    assert message in run.stderr
    assert ("nothing was changed" in run.stderr) is bool(message)
    assert run.returncode == (1 if message else 0)
