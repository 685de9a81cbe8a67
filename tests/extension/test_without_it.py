"""A server that has the extension, has it no more, or has not loaded it in time."""

from __future__ import annotations

import json
import sys

import psycopg2

from tde.keystore import Keystore
from tde.postgres import audit
from tests.conftest import SERVER_OPTIONS
from tests.extension.conftest import create_extension, make_sql_cluster, settings_of
from tests.keystore.cheap_passphrase import PASSPHRASE
from tests.postgres.crashes.file_rewrites import kill_server

WORD = PASSPHRASE.decode()
OPTION = "tablespace_encryption_algorithm"

# It asks as the command does, with a socket of its own, and notes what it has.
NOTES = """#!{python}
import json, os, select, socket
fds = sorted(int(name) for name in os.listdir("/proc/self/fd"))
noted = {{"environment": sorted(os.environ), "descriptors": []}}
for fd in fds:
    try:
        noted["descriptors"].append(os.readlink(f"/proc/self/fd/{{fd}}"))
    except OSError:
        noted["descriptors"].append("gone")
noted["early"] = bool(select.select([0], [], [], 1)[0])
here, there = socket.socketpair()
with socket.socket(fileno=0) as asked, there:
    socket.send_fds(asked, [b"."], [there.fileno()])
noted["got"] = here.makefile("rb").read().hex()
with open("{place}/noted", "w") as file:
    json.dump(noted, file)
"""


def test_a_server_without_it_recovers_everything(
    binaries, extension, encrypted_cluster_factory, os_user_tmp_path
):
    """What it has made is replayed by a server that never had it, after a crash."""
    made = make_sql_cluster(
        encrypted_cluster_factory, binaries, extension, os_user_tmp_path / "space"
    )
    made.query("CHECKPOINT")
    place = os_user_tmp_path / "small"
    made.query(f"CREATE TABLESPACE small LOCATION '{place}' WITH ({OPTION} = 'AES128')")
    made.query("CREATE TABLE tiny TABLESPACE small AS SELECT generate_series(1, 1000) AS n")
    made.query(f"SELECT tde_set_master_key('{WORD}')")
    kill_server(made.cluster.pid)
    made.keystore.close()
    made.keystore = Keystore.open(made.keystore.path, PASSPHRASE)
    with made.keystore:
        made.cluster.start(made.keystore, options=dict(SERVER_OPTIONS))
        assert made.query("SHOW shared_preload_libraries") == [("",)]
        assert made.query("SELECT count(*) FROM tiny") == [(1000,)]
        assert made.query("SELECT count(*) FROM hidden") == [(100,)]
        # PostgreSQL's own words for what it does not know.
        error = made.fails(f"CREATE TABLESPACE x LOCATION '{place}' WITH ({OPTION} = 'AES128')")
        assert f'unrecognized parameter "{OPTION}"' in error.diag.message_primary
        assert audit(made.cluster, made.keystore).clean


def test_functions_that_take_a_passphrase_need_it_preloaded(
    binaries_older_slow, extension_newest, encrypted_cluster_factory
):
    options = {**settings_of(extension_newest), "shared_preload_libraries": ""}
    made = encrypted_cluster_factory(binaries_older_slow, options=options)
    create_extension(made, extension_newest)
    # Nothing needs the hooks here.
    made.query("SELECT tde_close_keystore()")
    assert made.query("SELECT count(*) FROM tde_tablespaces") == [(2,)]
    connection = make_fail(made, f"SELECT tde_open_keystore('{WORD}')")
    assert "needs tde in shared_preload_libraries" in connection


def make_fail(made, statement: str) -> str:
    try:
        made.query(statement)
    except psycopg2.Error as error:
        return str(error)
    raise AssertionError(statement)


def test_a_plain_cluster_says_so(binaries_older_slow, extension_newest, encrypted_cluster_factory):
    made = encrypted_cluster_factory.plain(
        binaries_older_slow, options=settings_of(extension_newest)
    )
    create_extension(made, extension_newest)
    assert made.query("SELECT DISTINCT encrypted FROM tde_tablespaces") == [(False,)]
    assert made.query("SELECT * FROM tde_activity") == []
    assert "this server runs without keys" in make_fail(made, "SELECT tde_close_keystore()")


def test_the_command_that_runs_is_named_by_a_superuser_and_must_exist(made):
    assert made.query("SHOW tde.command")[0][0].endswith("/tde")
    # Other settings of tde are the launcher's, and stay.
    assert made.query("SHOW tde.server_keystore")[0][0]
    assert made.fails("SET tde.command = '/bin/true'").pgcode == "55P02"
    try:
        for command, words in (
            ("tde", "must be the absolute path"),
            ("/no/such/tde", "could not run /no/such/tde: No such file"),
            ("/bin/false", "failed with exit status 1"),
        ):
            made.query(f"ALTER SYSTEM SET tde.command = '{command}'")
            made.query("SELECT pg_reload_conf()")
            made.query("SELECT pg_sleep(0.3)")
            assert words in make_fail(made, f"SELECT tde_open_keystore('{WORD}')")
    finally:
        made.query("ALTER SYSTEM RESET tde.command")
        made.query("SELECT pg_reload_conf()")
        made.query("SELECT pg_sleep(0.3)")


def test_the_environment_of_the_command_is_its_own(made, os_user_tmp_path):
    """Neither keys nor the preload nor settings of the server's environment reach it."""
    script = os_user_tmp_path / "tde"
    place = os_user_tmp_path
    script.write_text(NOTES.format(python=sys.executable, place=place))
    script.chmod(0o755)
    made.query(f"ALTER SYSTEM SET tde.command = '{script}'")
    made.query("SELECT pg_reload_conf()")
    made.query("SELECT pg_sleep(0.3)")
    try:
        made.query(f"SELECT tde_open_keystore('{WORD}')")
    finally:
        made.query("ALTER SYSTEM RESET tde.command")
        made.query("SELECT pg_reload_conf()")
        made.query("SELECT pg_sleep(0.3)")
    noted = json.loads((place / "noted").read_text())
    names = set(noted["environment"])
    assert names <= {
        *("PATH", "HOME", "TZ", "LD_LIBRARY_PATH", "OPENSSL_CONF", "OPENSSL_MODULES"),
        *("LC_ALL", "PYTHONNOUSERSITE", "PWD", "SHLVL", "_"),
    }
    # The last one is that by which it looks.
    kinds = [descriptor.split(":")[0] for descriptor in noted["descriptors"][:-1]]
    assert kinds == ["socket", "pipe", "/memfd"]
    assert not noted["early"]
    expected = len(WORD).to_bytes(4, "big") + WORD.encode()
    assert bytes.fromhex(noted["got"]) == expected
