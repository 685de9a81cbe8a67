"""`pg_upgrade` from each major version that is installed to each later one, in each mode."""

from __future__ import annotations

from itertools import combinations, product

import pytest

from tde.algorithms import Algorithm
from tde.postgres import Cluster, PostgresBinaries, create_tablespace
from tests.installations import installations
from tests.postgres.server.test_upgrades import Upgrade, auto_open_keystore, is_new_enough

ROWS = 3000
MODES = {"copy": 15, "link": 15, "copy-file-range": 17, "swap": 18}
"""The modes, each with the first version whose pg_upgrade has it; not all file systems clone."""

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
            # The newest two with one mode are tried each time.
            marks=() if ((old, new), mode) == (pairs[-1], "link") else (pytest.mark.slow,),
        )
        for (old, new), mode in product(pairs, MODES)
        if new.major >= MODES[mode]
    ]  # fmt: skip


@pytest.mark.parametrize(("old_binaries", "new_binaries", "mode"), _cases())
def test_rows_hidden_by_multixacts_stay_hidden(
    old_binaries: PostgresBinaries,
    new_binaries: PostgresBinaries,
    mode: str,
    keystore_factory,
    os_user,
    os_user_tmp_path,
):
    if not is_new_enough(old_binaries, new_binaries):
        pytest.skip(f"{new_binaries.version_text} lacks what {old_binaries.version_text} has")
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
