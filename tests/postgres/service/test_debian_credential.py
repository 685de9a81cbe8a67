"""pg_upgradecluster where the keystore opens by a credential that only units of systemd have."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.postgres.service.apart import (
    KEYSTORE,
    NEW,
    NEW_MAJOR,
    OLD,
    OLD_MAJOR,
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
from tests.postgres.service.units import COMMON, CREDENTIALS, DROP_INS, enter_units

pytestmark = needs_mounts

BY_FD = ("--passphrase-fd", 0)
SECRET = Path("/etc/systemd/system/tde.secret")  # systemd-creds would have encrypted it.
IN_MEMORY = Path("/run/tde-upgrade")
IN_ENVIRONMENT = "CREDENTIALS_DIRECTORY = '{}'\n"


def with_secret(*command: object) -> str:
    return run("env", f"CREDENTIALS_DIRECTORY={IN_MEMORY}", *command)


def put_in_memory() -> None:
    """Do what the page does with systemd-creds."""
    run("install", "-d", "-m", "700", "-o", "postgres", IN_MEMORY)
    run("install", "-m", "400", "-o", "postgres", SECRET, IN_MEMORY / "tde")


def environment_of(major: int) -> Path:
    return Path(f"/etc/postgresql/{major}/main/environment")


def start_by_credential() -> None:
    """Encrypt a cluster whose keystore opens by the credential of its unit, and start that."""
    create_cluster()
    run("pg_ctlcluster", "--skip-systemctl-redirect", OLD_MAJOR, "main", "start")
    sql(OLD_MAJOR, "CREATE TABLE t AS SELECT 'kept'::text AS a")
    run("pg_ctlcluster", "--skip-systemctl-redirect", OLD_MAJOR, "main", "stop")
    run("tde", "keystore", "create", "-k", KEYSTORE, *BY_FD)
    run("tde", "pg", "encrypt", "-D", OLD, "-k", KEYSTORE, *BY_FD)
    SECRET.write_bytes(bytes(range(32)))
    SECRET.chmod(0o600)
    put_in_memory()
    bind = ("--bind", "credential:tde")
    with_secret("tde", "keystore", "auto-open", "enable", *bind, "-k", KEYSTORE, *BY_FD)
    with_secret("tde", "pg", "register", f"{OLD_MAJOR}/main")
    run("rm", "-r", IN_MEMORY)
    unit = f"postgresql@{OLD_MAJOR}-main.service"
    drop_in = DROP_INS / f"{unit}.d" / "tde.conf"
    drop_in.parent.mkdir()
    credential = ("--credential", f"tde:{SECRET}")
    drop_in.write_text(run("tde", "pg", "unit", f"{OLD_MAJOR}/main", *credential))
    with environment_of(OLD_MAJOR).open("a") as file:
        file.write(IN_ENVIRONMENT.format(CREDENTIALS / unit))
    run("pg_ctlcluster", OLD_MAJOR, "main", "start")
    assert sql(OLD_MAJOR, "SELECT a FROM t") == "kept"


def require_new_service() -> None:
    assert sql(NEW_MAJOR, "SELECT a FROM t") == "kept"
    assert "the server encrypts" in run("tde", "pg", "status", "-D", NEW)
    run("systemctl", "restart", f"postgresql@{NEW_MAJOR}-main")
    assert sql(NEW_MAJOR, "SELECT a FROM t") == "kept"
    assert not IN_MEMORY.exists()


def register_versions() -> None:
    for major in (OLD_MAJOR, NEW_MAJOR):
        with_secret("tde", "pg", "register", major, "-k", KEYSTORE)


def by_the_page() -> None:
    put_in_memory()
    register_versions()
    run("rm", "-r", IN_MEMORY)
    # Without the secret the first program is refused. The old cluster is as it was, but stopped.
    upgrade = (*UPGRADECLUSTER, "-m", "upgrade", "-v", NEW_MAJOR, OLD_MAJOR, "main")
    shown = run(*upgrade, exit_code=1)
    assert "there is no credential tde" in shown, shown
    run("systemctl", "start", f"postgresql@{OLD_MAJOR}-main")
    assert sql(OLD_MAJOR, "SELECT a FROM t") == "kept"
    forget_what_the_new_version_refuses("postgres", "template1")
    put_in_memory()
    type_page("Another major version with a credential")


def by_dump() -> None:
    put_in_memory()
    for place in (environment_of(OLD_MAJOR), COMMON / "environment"):
        place.write_text(IN_ENVIRONMENT.format(IN_MEMORY))
    old, new = (DROP_INS / f"postgresql@{one}-main.service.d" for one in (OLD_MAJOR, NEW_MAJOR))
    run("cp", "-r", old, new)
    register_versions()
    with_secret(*UPGRADECLUSTER, "-v", NEW_MAJOR, OLD_MAJOR, "main")
    directory = CREDENTIALS / f"postgresql@{NEW_MAJOR}-main.service"
    environment_of(NEW_MAJOR).write_text(IN_ENVIRONMENT.format(directory))
    run("rm", "-r", IN_MEMORY)


def upgrade_with_credential(place: Path, method: str) -> None:
    own = place / "units"
    enter_directories(place)
    own.mkdir()
    enter_units(own)
    try:
        start_by_credential()
        if method == "dump":
            by_dump()
        else:
            by_the_page()
        require_new_service()
    finally:
        for major in (OLD_MAJOR, NEW_MAJOR):
            stop = ("stop", "-m", "immediate")
            subprocess.run(
                ["pg_ctlcluster", "--skip-systemctl-redirect", str(major), "main", *stop]
            )


@pytest.mark.parametrize("method", ["dump", pytest.param("upgrade", marks=pytest.mark.slow)])
def test_a_cluster_with_a_credential_is_upgraded(tmp_path: Path, method: str) -> None:
    run_apart(upgrade_with_credential, tmp_path, method)
