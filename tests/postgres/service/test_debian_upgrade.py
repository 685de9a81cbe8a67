"""The whole life of a cluster with Debian's own tools, as root: made, encrypted, upgraded, plain.

It runs in a process with mounts of its own (namespace.py), because it replaces programs in
/usr/lib/postgresql and makes clusters where Debian has them.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.postgres.service.apart import (
    CANARY,
    KEYSTORE,
    NEW,
    NEW_MAJOR,
    OLD,
    OLD_MAJOR,
    POSTMASTERS,
    PROGRAMS,
    UPGRADECLUSTER,
    create_cluster,
    enter_directories,
    forget_what_the_new_version_refuses,
    needs_mounts,
    run,
    run_apart,
    sql,
    type_page,
)

pytestmark = needs_mounts


def make_content() -> None:
    """Data, roles, a second tablespace, another database, and extensions of contrib."""
    space = OLD.parent / "space"
    run("install", "-d", "-o", "postgres", "-m", "700", space)
    sql(OLD_MAJOR, f"CREATE TABLESPACE space LOCATION '{space}'")
    sql(OLD_MAJOR, "CREATE ROLE app LOGIN; CREATE DATABASE shop OWNER app")
    sql(OLD_MAJOR, "CREATE EXTENSION pgcrypto; CREATE EXTENSION hstore; CREATE EXTENSION amcheck")
    sql(OLD_MAJOR, "CREATE TABLE h AS SELECT 'a=>1'::hstore AS h")
    rows = f"SELECT n, '{CANARY}'::text AS a FROM generate_series(1, 1000) n"
    sql(OLD_MAJOR, f"CREATE TABLE t TABLESPACE space AS {rows}; CREATE INDEX ON t (n)", "shop")
    sql(OLD_MAJOR, "ALTER TABLE t OWNER TO app; CHECKPOINT", "shop")


def require_content(major: int) -> None:
    assert sql(major, "SELECT count(*), min(a) FROM t", "shop") == f"1000|{CANARY}"
    owner = "SELECT tableowner, tablespace FROM pg_tables WHERE tablename = 't'"
    assert sql(major, owner, "shop") == "app|space"


def holds_canary(directory: Path) -> bool:
    files = (file for file in directory.rglob("*") if file.is_file())
    return any(CANARY.encode() in file.read_bytes() for file in files)


def encrypt_and_run() -> None:
    """Encrypt a cluster that is in use, and let pg_ctlcluster start it."""
    create_cluster()
    run("pg_ctlcluster", OLD_MAJOR, "main", "start")
    make_content()
    type_page("Encrypt a cluster")
    assert "tde-start" in run("pg_ctlcluster", OLD_MAJOR, "main", "start", exit_code=1)
    type_page("Let Debian start it")
    require_content(OLD_MAJOR)
    # As after an upgrade of tde, while the server runs.
    program = Path("/var/lib/tde/bin") / f"{OLD_MAJOR}-main" / "postgres"
    content = program.read_bytes()
    program.unlink()  # It is running.
    program.write_bytes(b"of an older release")
    assert f"{program.parent} is up to date" in run("tde", "pg", "register", "--refresh")
    assert program.read_bytes() == content
    run("pg_ctlcluster", OLD_MAJOR, "main", "restart")
    assert sql(OLD_MAJOR, "SELECT h -> 'a', length(digest('x', 'sha256')) FROM h") == "1|32"
    forget_what_the_new_version_refuses("postgres", "shop", "template1")
    # What the version to come does not bring.
    sql(OLD_MAJOR, "DROP TABLE h; DROP EXTENSION pgcrypto; DROP EXTENSION hstore")
    sql(OLD_MAJOR, "DROP EXTENSION amcheck")


def upgrade(*options: str) -> None:
    if options:
        register = ("tde", "pg", "register")
        shown = run(*register, OLD_MAJOR, "-k", KEYSTORE)
        assert f"{OLD_MAJOR}/main is no longer registered" in shown, shown
        run(*register, NEW_MAJOR, "-k", KEYSTORE)
        run("pg_ctlcluster", OLD_MAJOR, "main", "restart")
        run(*UPGRADECLUSTER, *options, "-v", NEW_MAJOR, OLD_MAJOR, "main")
    else:
        run("tde", "pg", "unregister", f"{OLD_MAJOR}/main")
        type_page("Another major version")
    for name in POSTMASTERS:
        assert f"PostgreSQL) {OLD_MAJOR}" in run(PROGRAMS / name, "--version")
    # Which ports they get depends on what else listens here.
    listed = [line.split() for line in run("pg_lsclusters", "-h").splitlines()]
    assert [(words[0], words[3]) for words in listed] == [
        (str(OLD_MAJOR), "down"),
        (str(NEW_MAJOR), "online"),
    ]
    require_content(NEW_MAJOR)
    assert "the server encrypts" in run("tde", "pg", "status", "-D", NEW)
    sql(NEW_MAJOR, "CHECKPOINT")
    for cluster in (OLD.parent, NEW.parent):
        assert not holds_canary(cluster)


def decrypt() -> None:
    run("pg_ctlcluster", NEW_MAJOR, "main", "stop")
    run("tde", "pg", "decrypt", "-D", NEW, "--passphrase-fd", 0)
    names = {program.name for program in PROGRAMS.iterdir()}
    # Programs of its own, too, would look for PostgreSQL's where they are no more.
    run("tde", "pg", "register", f"{OLD_MAJOR}/main")
    shown = run("tde", "pg", "unregister", OLD_MAJOR)
    assert f"{OLD_MAJOR}/main is registered by itself again" in shown
    assert {program.name for program in PROGRAMS.iterdir()} == names
    assert all(program.exists() for program in PROGRAMS.iterdir())
    for name in POSTMASTERS:
        assert (PROGRAMS / name).readlink() == Path("postgres")
    shown = run("tde", "pg", "unregister", "--all")
    assert f"PostgreSQL {NEW_MAJOR} has its own programs again" in shown
    assert f"neither pg_ctlcluster nor systemd starts them: {OLD_MAJOR}/main." in shown
    assert "tde pg register" not in shown
    for major in (OLD_MAJOR, NEW_MAJOR):
        server = Path(f"/usr/lib/postgresql/{major}/bin/postgres")
        assert server.is_file()
        assert not server.is_symlink()
        assert not (server.parent.parent / "tde-stock").exists()
    assert "tde" not in Path("/var/lib/dpkg/diversions").read_text()
    run("pg_ctlcluster", NEW_MAJOR, "main", "start")
    require_content(NEW_MAJOR)
    assert holds_canary(NEW.parent) or holds_canary(OLD.parent)


def whole_life(place: Path, *options: str) -> None:
    """What the test runs in a process of its own."""
    enter_directories(place)
    try:
        encrypt_and_run()
        upgrade(*options)
        decrypt()
    finally:
        for major in (OLD_MAJOR, NEW_MAJOR):
            subprocess.run(["pg_ctlcluster", str(major), "main", "stop", "-m", "immediate"])


def two_keystores(place: Path) -> None:
    """A cluster that is registered by itself starts also where its version has other keys."""
    enter_directories(place)
    create_cluster()
    other, by_fd = Path("/var/lib/postgresql/other"), ("--passphrase-fd", 0)
    try:
        run("pg_ctlcluster", OLD_MAJOR, "main", "start")
        type_page("Encrypt a cluster")
        type_page("Let Debian start it")
        run("pg_ctlcluster", OLD_MAJOR, "main", "stop")
        run("tde", "keystore", "create", "-k", other, *by_fd)
        run("tde", "keystore", "auto-open", "enable", "-k", other, *by_fd)
        shown = run("tde", "pg", "register", OLD_MAJOR, "-k", other, *by_fd)
        assert "no longer registered" not in shown
        run("pg_ctlcluster", OLD_MAJOR, "main", "start")
        assert "the server encrypts" in run("tde", "pg", "status", "-D", OLD)
        run("pg_ctlcluster", OLD_MAJOR, "main", "restart")
        run("pg_ctlcluster", OLD_MAJOR, "main", "stop")
        run("tde", "pg", "unregister", f"{OLD_MAJOR}/main", "--all", exit_code=2)
        run("tde", "pg", "unregister", "--all")
    finally:
        subprocess.run(["pg_ctlcluster", str(OLD_MAJOR), "main", "stop", "-m", "immediate"])


@pytest.mark.parametrize(
    "options",
    [
        pytest.param((), id="dump"),
        pytest.param(("-m", "upgrade"), id="pg_upgrade", marks=pytest.mark.slow),
    ],
)
def test_the_whole_life_with_debians_tools(tmp_path: Path, options: tuple[str, ...]) -> None:
    run_apart(whole_life, tmp_path, *options)


def test_clusters_of_two_keystores(tmp_path: Path) -> None:
    run_apart(two_keystores, tmp_path)
