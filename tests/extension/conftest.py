"""The extension, built once for each server, in a directory of its own."""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from tde.algorithms import Algorithm
from tde.postgres import PostgresBinaries, create_tablespace
from tde.postgres.extension.building import server_paths
from tde.postgres.extension.installing import (
    InstalledExtension,
    install_extension,
    write_plain_scripts,
)
from tde.postgres.server.os_user import run_as
from tests.conftest import ClusterFactory, RunningCluster


def has_headers(binaries: PostgresBinaries) -> bool:
    """Tell whether the extension can be built; Debian's servers have pg_config without headers."""
    if not (binaries.bindir / "pg_config").is_file():
        return False
    return (server_paths(binaries).headers / "postgres.h").is_file()


@contextmanager
def built(binaries: PostgresBinaries) -> Iterator[InstalledExtension]:
    if not has_headers(binaries):
        pytest.skip(f"no postgresql-server-dev-{binaries.major}, which .ci/run installs")
    with tempfile.TemporaryDirectory(prefix="test-of-tde-") as directory:
        Path(directory).chmod(0o755)
        command = Path(sys.executable).with_name("tde")
        made = install_extension(binaries, command, Path(directory))
        write_plain_scripts(made)
        yield made


@pytest.fixture(scope="session")
def extension(binaries) -> Iterator[InstalledExtension]:
    with built(binaries) as made:
        yield made


@pytest.fixture(scope="session")
def extension_newest(binaries_older_slow) -> Iterator[InstalledExtension]:
    with built(binaries_older_slow) as made:
        yield made


def settings_of(extension: InstalledExtension) -> dict[str, str]:
    pairs = (line.split(" = ") for line in extension.settings)
    return {name: value.strip("'") for name, value in pairs}


def create_extension(
    made: RunningCluster, extension: InstalledExtension, name: str = "tde"
) -> None:
    """Make it; by its script, as psql would send it, where a server looks in one place only."""
    (statement,) = extension.statements
    if statement.startswith("CREATE"):
        made.query(f"CREATE EXTENSION {name}")
        return
    script = (extension.scripts / f"{name}.sql").read_text()
    for part in re.split(r";\n+(?=CREATE|REVOKE|GRANT|--)", script):
        made.query(part)


class SqlCluster(RunningCluster):
    """A cluster whose server has the extension loaded.

    Attributes:
        others: libraries that are loaded beside it.
    """

    others: Sequence[str] = ()

    def session(self, **parameters: object) -> Any:
        connection = psycopg2.connect(
            **{**self.cluster.connection_parameters("postgres"), **parameters}
        )
        connection.autocommit = True
        return closing(connection)

    def fails(self, statement: str, **parameters: object) -> Any:
        """Return the error of a statement."""
        with (
            self.session(**parameters) as connection,
            connection.cursor() as cursor,
            pytest.raises(psycopg2.Error) as caught,
        ):
            cursor.execute(statement)
        return caught.value


def make_sql_cluster(
    factory: ClusterFactory,
    binaries: Any,
    extension: InstalledExtension,
    location: Path,
    options: Mapping[str, str] | None = None,
    **arguments: Any,
) -> SqlCluster:
    """Start a cluster with the extension, and with a table `hidden` in tablespace `secret`."""
    made = factory(binaries, options={**settings_of(extension), **(options or {})}, **arguments)
    sql = SqlCluster(made.cluster, made.keystore)
    create_extension(sql, extension)
    create_tablespace(sql.cluster, sql.keystore, "secret", location, Algorithm.AES256)
    sql.query("CREATE TABLE hidden TABLESPACE secret AS SELECT generate_series(1, 100) AS n")
    return sql


@pytest.fixture(scope="module")
def made(binaries, extension, module_cluster_factory, module_os_user_tmp_path) -> SqlCluster:
    """One cluster for the tests of a module, which leave its keystore open."""
    name = f"data-{binaries.major}"
    location = module_os_user_tmp_path / f"space-{name}"
    return make_sql_cluster(module_cluster_factory, binaries, extension, location, name=name)


@pytest.fixture(scope="session")
def run_psql(postgres_installations, os_user) -> Callable[..., str]:
    """Runs statements in a new psql, which can bind parameters, and returns what it says."""
    psql = postgres_installations[max(postgres_installations)].program("psql")

    def run(made: SqlCluster, *lines: str) -> str:
        parameters = made.cluster.connection_parameters("postgres")
        address = [f"{name}={value}" for name, value in parameters.items()]
        command = [psql, "-X", "-d", " ".join(address)]
        done = run_as(os_user, command, text="\n".join(lines) + "\n", timeout=120)
        return done.stdout + done.stderr

    return run
