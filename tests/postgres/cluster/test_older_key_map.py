"""An older key map that somebody puts back by hand: what is noticed, and what is not.

docs/threat-model.md says both. The map is authentic, so only what it lacks can tell its age.
"""

from __future__ import annotations

import psycopg2
import pytest

from tde.algorithms import Algorithm
from tde.errors import KeyMapError
from tde.postgres import create_tablespace
from tde.postgres.cluster.keymap import KEYMAP_FILE
from tests.postgres.cluster_copies import make_directory

ROWS = 1000


def make_space(made, name: str, directory, *, in_sql: bool) -> int:
    """Make a tablespace and a table in it, both with this name; returns the tablespace's OID."""
    if in_sql:
        made.query(f"CREATE TABLESPACE {name} LOCATION '{make_directory(made, directory)}'")
    else:
        create_tablespace(made.cluster, made.keystore, name, directory, Algorithm.AES256)
    made.query(f"CREATE TABLE {name} TABLESPACE {name} AS SELECT generate_series(1, {ROWS}) AS g")
    return made.query("SELECT oid FROM pg_tablespace WHERE spcname = %s", (name,))[0][0]


@pytest.fixture(params=[True, False], ids=["in-sql", "by-tde"])
def aged(request, any_binaries, encrypted_cluster_factory, os_user_tmp_path):
    """A server with two tablespaces, the OID of the second, and the maps before and after it."""
    made = encrypted_cluster_factory(any_binaries)
    make_space(made, "first", os_user_tmp_path / "first", in_sql=request.param)
    path = made.data_directory / KEYMAP_FILE
    older = path.read_bytes()
    oid = make_space(made, "second", os_user_tmp_path / "second", in_sql=request.param)
    made.query("CHECKPOINT")
    return made, oid, older, path.read_bytes()


def test_a_map_that_lacks_a_tablespace_is_refused_at_the_start(aged):
    made, oid, older, newest = aged
    path = made.data_directory / KEYMAP_FILE
    for mode in ("fast", "immediate"):  # In recovery nothing is known of it either.
        made.cluster.stop(mode)
        path.write_bytes(older)
        with pytest.raises(KeyMapError, match=f"does not say what key tablespace {oid}") as caught:
            made.start()
        assert (
            "restore tde.keymap from the newest base backup of this server" in caught.value.remedy
        )
        assert made.cluster.pid is None
        assert path.read_bytes() == older
        path.write_bytes(newest)
        made.start()
        for name in ("first", "second"):
            assert made.query(f"SELECT count(*) FROM {name}") == [(ROWS,)]


def test_a_running_server_adds_nothing_to_it(aged, os_user_tmp_path):
    """What was added would be missing in the newest map, so no map would have all of them."""
    made, oid, older, newest = aged
    path = made.data_directory / KEYMAP_FILE
    path.write_bytes(older)
    location = make_directory(made, os_user_tmp_path / "third")
    with pytest.raises(psycopg2.Error, match="Required key not available"):
        made.query(f"CREATE TABLESPACE third LOCATION '{location}'")
    log = made.cluster.default_log.read_text()
    assert f"{KEYMAP_FILE} does not say what key tablespace {oid} has" in log
    assert path.read_bytes() == older
    # It has the keys in memory, so that everything else goes on.
    made.query("INSERT INTO second SELECT 0")
    path.write_bytes(newest)
    # PostgreSQL leaves its directory in the other place when CREATE TABLESPACE fails.
    location = make_directory(made, os_user_tmp_path / "fourth")
    made.query(f"CREATE TABLESPACE third LOCATION '{location}'")
    made.cluster.restart(made.keystore)
    assert made.query("SELECT count(*) FROM second") == [(ROWS + 1,)]


def test_a_map_that_knows_all_tablespaces_is_not_told_from_the_newest(aged):
    made, _, older, newest = aged
    made.query("DROP TABLE second")
    made.query("CHECKPOINT")
    made.query("DROP TABLESPACE second")
    made.cluster.stop()
    path = made.data_directory / KEYMAP_FILE
    assert path.read_bytes() == newest
    path.write_bytes(older)
    made.start()
    assert made.query("SELECT count(*) FROM first") == [(ROWS,)]
    assert path.read_bytes() == older
