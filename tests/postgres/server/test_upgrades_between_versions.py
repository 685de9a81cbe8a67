"""`pg_upgrade` from each major version that is installed to each later one, in each mode."""

from __future__ import annotations

import fcntl
from itertools import combinations, product
from pathlib import Path

import pytest

from tde.algorithms import Algorithm
from tde.postgres import Cluster, PostgresBinaries, create_tablespace
from tests.installations import installations
from tests.postgres.programs import Programs
from tests.postgres.server.test_upgrades import Upgrade, auto_open_keystore, is_new_enough

ROWS = 3000
MODES = {"copy": 15, "link": 15, "clone": 15, "copy-file-range": 17, "swap": 18}
"""The modes, each with the first version whose pg_upgrade has it."""

# ioctl_ficlone(2): share the blocks of another file.
FICLONE = 0x40049409

# Each row is locked by a transaction and updated by a part of it, so the old row is hidden by a
# multixact of its own. 19 has another format for them, into which pg_upgrade translates.
MULTIXACTS = f"""
DO $$ BEGIN
  FOR i IN 1..{ROWS} LOOP
    PERFORM FROM t WHERE id = i FOR KEY SHARE;
    BEGIN UPDATE t SET v = 'new' WHERE id = i; EXCEPTION WHEN division_by_zero THEN NULL; END;
  END LOOP;
END $$
"""


def _cases() -> list[object]:
    pairs = list(combinations(installations().values(), 2))
    return [
        pytest.param(
            old, new, mode, id=f"{old.major}-{new.major}-{mode}",
            marks=_marks((old, new) == pairs[-1], mode),
        )
        for (old, new), mode in product(pairs, MODES)
        if new.major >= MODES[mode]
    ]  # fmt: skip


def _marks(newest: bool, mode: str) -> list[pytest.MarkDecorator]:
    # The newest two with one mode are tried each time.
    marks = [] if newest and mode == "link" else [pytest.mark.slow]
    # No file system in memory clones.
    return [*marks, pytest.mark.on_disk] if mode == "clone" else marks


def can_clone(directory: Path) -> bool:
    with (directory / "cloned").open("w+b") as source, (directory / "clone").open("wb") as clone:
        source.write(bytes(8192))
        source.flush()
        try:
            fcntl.ioctl(clone, FICLONE, source.fileno())
        except OSError:
            return False
        return True


def forget_versions_of_columns(programs: Programs) -> None:
    """Take out what an older release of the new version does not know, and would stop at."""
    for database in ("postgres", "template1"):
        statement = "UPDATE pg_attribute SET attoptions = NULL WHERE attoptions IS NOT NULL"
        programs.run("psql", "-Xqc", statement, "-d", database)


@pytest.mark.parametrize(("old_binaries", "new_binaries", "mode"), _cases())
def test_rows_hidden_by_multixacts_stay_hidden(
    old_binaries: PostgresBinaries,
    new_binaries: PostgresBinaries,
    mode: str,
    keystore_factory,
    os_user,
    os_user_tmp_path,
):
    if mode == "clone" and not can_clone(os_user_tmp_path):
        pytest.skip("this file system does not clone files")
    upgrade = Upgrade(os_user_tmp_path, [old_binaries, new_binaries], os_user)
    keystore = auto_open_keystore(keystore_factory, "ks")
    old, new = upgrade.old(keystore), upgrade.new(keystore)
    clusters = [
        Cluster(data, binaries, os_user=os_user)
        for data, binaries in ((upgrade.before, old_binaries), (upgrade.after, new_binaries))
    ]
    upgrade.initdb(old, upgrade.before)
    upgrade.initdb(new, upgrade.after)
    old.start(upgrade.before)
    try:
        create_tablespace(
            clusters[0], keystore, "space", os_user_tmp_path / "space", Algorithm.AES256
        )
        old.sql(
            "CREATE TABLE t (id int PRIMARY KEY, v text) TABLESPACE space; "
            f"INSERT INTO t SELECT g, 'old' FROM generate_series(1, {ROWS}) g"
        )
        old.sql(MULTIXACTS)
        if not is_new_enough(old_binaries, new_binaries):
            forget_versions_of_columns(old)
        old.run("pg_ctl", "stop", "-D", upgrade.before)
        upgrade.run(old, new, f"--{mode}")
        new.start(upgrade.after)
        counts = "SELECT count(*), count(DISTINCT id), count(*) FILTER (WHERE v = 'new') FROM t"
        assert new.sql(f"SET enable_indexscan = off; {counts}") == f"{ROWS}|{ROWS}|{ROWS}"
        new.sql("VACUUM FREEZE t")
        assert new.sql(counts) == f"{ROWS}|{ROWS}|{ROWS}"
        assert int(new.sql("SELECT next_multixact_id FROM pg_control_checkpoint()")) > ROWS
    finally:
        for cluster in clusters:
            if cluster.pid is not None:
                cluster.stop("immediate")
