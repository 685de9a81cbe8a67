"""What must be true of a server after a power cut: all that was told to clients, and no damage."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from enum import Enum
from random import Random
from typing import Any

import psycopg2

from tests.power_loss.site import Site

SEED_ROWS = 400
# Of one state; what is behind them is most often the same.
MOST_PROBLEMS = 8


class Kind(str, Enum):
    """What a crash state suffers from."""

    LOST = "lost"
    CORRUPT = "corrupt"
    NOT_STARTED = "not started"


@dataclass(frozen=True)
class Problem:
    kind: Kind
    text: str


@dataclass
class Told:
    """The notes that were in the journal before the power cut."""

    rows: dict[str, set[int]] = field(default_factory=dict)
    """Numbers in the column n of a table, each committed."""
    tables: dict[str, int] = field(default_factory=dict)
    """Tables and how many rows were committed with them; not those that are being dropped."""
    databases: set[str] = field(default_factory=set)
    sequence: int = 0
    words: set[str] = field(default_factory=set)
    """Everything else: steps of a scenario that had ended."""

    @classmethod
    def read(cls, notes: Sequence[bytes]) -> Told:
        told = cls()
        # A long run of notes may be written in parts, and the cut may fall between two of them.
        whole, _, _ = b"".join(notes).rpartition(b"\n")
        for line in whole.splitlines():
            what, *rest = json.loads(line)
            if what == "row":
                told.rows.setdefault(rest[0], set()).add(rest[1])
            elif what == "table":
                told.tables[rest[0]] = rest[1]
            elif what == "dropping table":
                told.tables.pop(rest[0], None)
            elif what == "database":
                told.databases.add(rest[0])
            elif what == "dropping database":
                told.databases.discard(rest[0])
            elif what == "sequence":
                told.sequence = max(told.sequence, rest[0])
            else:
                told.words.add(what)
        return told


class Checker:
    """Asks one server, and keeps what is wrong."""

    def __init__(self, site: Site, random: Random) -> None:
        self._site = site
        self._random = random
        self.problems: list[Problem] = []

    def run(self, told: Told) -> list[Problem]:
        try:
            with closing(self._site.connect()) as connection:
                cursor = connection.cursor()
                self._rows(cursor, told)
                self._tables(cursor, told)
                self._transfers(cursor)
                self._sequence(cursor, told)
                self._relations(cursor)
                self._writes(cursor)
            for name in sorted(told.databases):
                self._database(name)
        except psycopg2.Error as error:
            self._add(Kind.CORRUPT, f"the server cannot be asked: {str(error).strip()}")
        return self.problems

    def _add(self, kind: Kind, text: str) -> None:
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(Problem(kind, text[:400]))

    def _ask(self, cursor: Any, statement: str, kind: Kind = Kind.CORRUPT) -> list[Any] | None:
        """Return the rows of a query, or note its error and return None."""
        try:
            cursor.execute(statement)
            return list(cursor.fetchall()) if cursor.description else []
        except psycopg2.OperationalError:
            raise
        except psycopg2.Error as error:
            self._add(kind, f"{statement}: {str(error).strip()}")
            return None

    def _rows(self, cursor: Any, told: Told) -> None:
        """Every committed row is in the table, and the index leads to it."""
        for table, numbers in told.rows.items():
            found = self._ask(cursor, f"SELECT n FROM {table}", Kind.LOST)
            if found is None:
                continue
            missing = numbers - {row[0] for row in found}
            if missing:
                self._add(Kind.LOST, f"{table} lost {len(missing)} rows: {sorted(missing)[:5]}")
            self._ask(cursor, "SET enable_seqscan = off; SET enable_bitmapscan = off")
            for number in self._random.sample(sorted(numbers), min(20, len(numbers))):
                through = self._ask(cursor, f"SELECT n FROM {table} WHERE n = {number}")
                if through == [] and number not in missing:
                    self._add(Kind.CORRUPT, f"the index of {table} does not lead to {number}")
            self._ask(cursor, "RESET enable_seqscan; RESET enable_bitmapscan")

    def _tables(self, cursor: Any, told: Told) -> None:
        for table, count in told.tables.items():
            found = self._ask(cursor, f"SELECT count(*) FROM {table}", Kind.LOST)
            if found is not None and found[0][0] != count:
                self._add(Kind.LOST, f"{table} has {found[0][0]} rows of {count}")

    def _transfers(self, cursor: Any) -> None:
        """What moves between rows in one transaction adds up to zero."""
        if self._exists(cursor, "transfers"):
            found = self._ask(cursor, "SELECT sum(v), count(DISTINCT id) FROM transfers")
            if found and found[0][0] != 0:
                self._add(Kind.CORRUPT, f"transfers add up to {found[0][0]}")

    def _sequence(self, cursor: Any, told: Told) -> None:
        if told.sequence:
            found = self._ask(cursor, "SELECT last_value FROM numbers", Kind.LOST)
            if found and found[0][0] < told.sequence:
                self._add(Kind.LOST, f"the sequence is at {found[0][0]}, not {told.sequence}")

    def _exists(self, cursor: Any, name: str) -> bool:
        found = self._ask(cursor, f"SELECT to_regclass('{name}') IS NOT NULL")
        return bool(found and found[0][0])

    def _relations(self, cursor: Any) -> None:
        """Each page of each heap can be read, and each index fits its heap."""
        found = self._ask(
            cursor,
            "SELECT c.oid::regclass::text, c.relkind, a.amname FROM pg_class c "
            "JOIN pg_am a ON a.oid = c.relam WHERE c.relpersistence = 'p'",
        )
        amcheck = self._has_amcheck(cursor)
        for name, kind, method in found or ():
            if kind in "rtm":
                self._heap(cursor, name, amcheck and method == "heap")
            elif amcheck and method == "btree":
                self._ask(cursor, f"SELECT bt_index_check('{name}', true)")

    def _has_amcheck(self, cursor: Any) -> bool:
        found = self._ask(
            cursor, "SELECT count(*) FROM pg_available_extensions WHERE name = 'amcheck'"
        )
        if not found or found[0][0] == 0:
            return False
        return self._ask(cursor, "CREATE EXTENSION IF NOT EXISTS amcheck") is not None

    def _heap(self, cursor: Any, name: str, amcheck: bool) -> None:
        # amcheck passes over pages that it takes for new, a sequential scan reads them all.
        column = "chunk_data" if name.startswith("pg_toast.") else "x"
        self._ask(cursor, f"SELECT count({column}) FROM {name} x")
        if amcheck:
            found = self._ask(cursor, f"SELECT blkno, msg FROM verify_heapam('{name}') LIMIT 3")
            if found:
                self._add(Kind.CORRUPT, f"{name}: {found}")

    def _writes(self, cursor: Any) -> None:
        """The server can go on: write, and make a checkpoint of all that recovery changed."""
        self._ask(cursor, "CREATE TABLE after_the_cut AS SELECT generate_series(1, 100) AS n")
        if self._exists(cursor, "transfers"):
            self._ask(cursor, "UPDATE transfers SET v = v")
        self._ask(cursor, "VACUUM")
        self._ask(cursor, "CHECKPOINT")

    def _database(self, name: str) -> None:
        try:
            with closing(self._site.connect(name)) as connection:
                cursor = connection.cursor()
                found = self._ask(cursor, "SELECT count(*) FROM seed", Kind.LOST)
                if found is not None and found[0][0] != SEED_ROWS:
                    self._add(Kind.LOST, f"database {name} has {found[0][0]} rows")
                self._relations(cursor)
        except psycopg2.Error as error:
            self._add(Kind.LOST, f"database {name}: {str(error).strip()}")


def kinds(problems: Iterable[Problem]) -> set[Kind]:
    return {problem.kind for problem in problems}
