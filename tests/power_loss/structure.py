"""Scenarios of what changes a cluster's directories: tablespaces, databases, WAL, promotion."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from random import Random
from typing import ClassVar

import psycopg2

from tde.postgres import run_program
from tests.power_loss.checks import Checker, Kind, Problem, Told
from tests.power_loss.load import (
    Load,
    MixedLoad,
    Step,
    change_databases,
    insert,
    maintain,
    prepare_tables,
    run_load,
)
from tests.power_loss.recording import Notes
from tests.power_loss.scenario import Scenario
from tests.power_loss.site import Site, try_to


def _use_tablespace(load: Load, name: str) -> None:
    """Write the first pages of a new tablespace, in two checkpoints' time."""
    table = f"in_{name}"
    load.run(f"CREATE TABLE {table} (a int) TABLESPACE {name}")
    load.run(f"INSERT INTO {table} SELECT generate_series(1, 100)")
    load.notes.write("table", table, 100)
    time.sleep(0.5)


def tablespace_by_sql(load: Load) -> None:
    name = f"sql{load.number()}"
    load.site.create_tablespace(name)
    _use_tablespace(load, name)


def tablespace_by_tde(load: Load) -> None:
    name = f"tde{load.number()}"
    load.site.create_tablespace_with_tde(name)
    _use_tablespace(load, name)


class TablespacesBySql(MixedLoad):
    """CREATE TABLESPACE, and tables in it at once."""

    name = "tablespaces-by-sql"
    weight = 2
    steps: ClassVar[tuple[Step, ...]] = (tablespace_by_sql, insert, maintain)
    tablespaces: ClassVar[tuple[str, ...]] = ("pg_default",)


class TablespacesByTde(TablespacesBySql):
    """The same with ``tde tablespace create``: each has a key of its own in the keystore."""

    name = "tablespaces-by-tde"
    steps: ClassVar[tuple[Step, ...]] = (tablespace_by_tde, insert, maintain)


class Databases(MixedLoad):
    """CREATE DATABASE with both strategies, and DROP DATABASE."""

    name = "databases"
    weight = 1
    steps: ClassVar[tuple[Step, ...]] = (change_databases, insert, maintain)


def switch_wal(load: Load) -> None:
    """Fill and leave segments faster than checkpoints come, so that all are recycled."""
    load.run("SELECT pg_switch_wal()")
    if load.random.random() < 0.2:
        load.run("CHECKPOINT")
    time.sleep(0.05)


class WalRecycling(MixedLoad):
    """Segments are recycled, removed and made all the time while rows are committed."""

    name = "wal-recycling"
    weight = 1
    steps: ClassVar[tuple[Step, ...]] = (insert, insert, switch_wal)
    tablespaces: ClassVar[tuple[str, ...]] = ("pg_default",)


class Promotion(Scenario):
    """A standby that has acknowledged what its primary committed, and is promoted."""

    name = "promotion"

    def prepare(self, site: Site) -> None:
        site.create_keystore()
        site.init()
        site.start({"fsync": "off"})
        prepare_tables(site, ("pg_default",))
        self._take_backup(site)
        site.stop()
        shutil.move(site.data, self._primary(site))
        shutil.move(site.root / "standby", site.data)

    def _primary(self, site: Site) -> Path:
        return site.outside / "primary"

    def _take_backup(self, site: Site) -> None:
        parameters = site.cluster().connection_parameters()
        with site.keystore() as keystore:
            run = run_program(
                site.binaries,
                "pg_basebackup",
                [
                    *("-h", str(parameters["host"]), "-U", str(parameters["user"])),
                    *("-D", str(site.root / "standby"), "--checkpoint=fast", "--no-sync"),
                ],
                keystore=keystore,
                os_user=site.os_user,
                timeout=120,
            )
        assert run.returncode == 0, run.stderr

    def act(self, site: Site, notes: Notes, seconds: float) -> None:
        primary = self._primary(site)
        try:
            site.start(
                {
                    "fsync": "off",
                    "synchronous_standby_names": "*",
                    "synchronous_commit": "remote_write",
                },
                data=primary,
            )
            self._follow(site, notes, seconds, primary)
        finally:
            site.kill(primary)
        site.query("SELECT pg_promote()")
        notes.write("promoted")
        run_load(site, notes, seconds / 2, (insert, insert, maintain))

    def _follow(self, site: Site, notes: Notes, seconds: float, primary: Path) -> None:
        parameters = site.cluster(primary).connection_parameters()
        conninfo = " ".join(f"{key}={parameters[key]}" for key in ("host", "port", "user"))
        signal = site.data / "standby.signal"
        signal.touch()
        site.give(signal)
        site.start({"primary_conninfo": conninfo})
        connection = site.connect(data=primary)
        connection.cursor().execute("SET synchronous_commit = on")  # Flushed by the standby.
        deadline, n = time.monotonic() + seconds / 2, 1_000_000
        while time.monotonic() < deadline:
            n += 1
            connection.cursor().execute(f"INSERT INTO rows_pg_default VALUES ({n}, 'followed')")
            notes.write("row", "rows_pg_default", n)
        connection.close()

    def check(self, site: Site, told: Told, random: Random) -> list[Problem]:
        problems = self.recover(site, told)
        if problems:
            return problems

        def promote() -> None:
            if site.query("SELECT pg_is_in_recovery()")[0][0]:
                site.query("SELECT pg_promote()")

        error = try_to(promote)
        if error is not None:
            return [Problem(Kind.NOT_STARTED, f"not promoted: {site.server_errors() or error}")]
        try:
            return Checker(site, random).run(told)
        except psycopg2.Error as error_of_server:
            return [Problem(Kind.CORRUPT, str(error_of_server))]
