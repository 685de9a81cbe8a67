"""What is tried with each version of PostgreSQL: the columns of the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """Tests that show one thing.

    Attributes:
        key: its name on the command line and in files.
        title: its heading.
        arguments: what pytest is given.
        packages: of Debian, that these tests need; ``{major}`` stands for the version.
        of_packages: whether this is about Debian's packages, which a wheel is not.
        apart: whether /tmp is a file system of its own that clones files.
    """

    key: str
    title: str
    arguments: Sequence[str]
    packages: Sequence[str] = ()
    of_packages: bool = False
    apart: bool = False


_TOOLS = "tests/tools"
_BACKUPS = [f"{_TOOLS}/test_pgbackrest.py", f"{_TOOLS}/test_barman.py"]
_SERVICE = "tests/postgres/service"

COLUMNS = (
    Column("tests", "tests on servers", ["-m", "on_server and not slow", "tests"]),
    Column("crashes", "crash mix", ["-m", "slow", "tests/postgres/crashes"]),
    Column(
        "backups",
        "pgBackRest, Barman",
        ["-m", "slow or not slow", *_BACKUPS],
        packages=["pgbackrest", "barman", "barman-cli", "rsync"],
    ),
    Column(
        "failover",
        "Patroni, repmgr",
        ["-m", "slow or not slow", f"{_TOOLS}/test_patroni.py", f"{_TOOLS}/test_repmgr.py"],
        packages=["patroni", "python3-etcd", "etcd-server", "postgresql-{major}-repmgr"],
    ),
    Column("extensions", "extensions", ["-m", "slow or not slow", f"{_TOOLS}/test_extensions.py"]),
    Column(
        "debian",
        "Debian's tools",
        ["-m", "slow or not slow", _SERVICE, f"--ignore={_SERVICE}/test_container.py"],
        of_packages=True,
    ),
    Column("container", "container", [f"{_SERVICE}/test_container.py"]),
)

UPGRADES = Column(
    "upgrades",
    "pg_upgrade to",
    ["-m", "slow or not slow", "tests/postgres/server/test_upgrades_between_versions.py"],
    packages=["xfsprogs"],
    apart=True,
)
"""Run once for all versions, where all are installed."""
