"""What stays in a tablespace because it cannot be moved while sessions are there, and why."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tde.postgres.tablespace.move_objects import Contents

PG_DEFAULT = 1663
PG_GLOBAL = 1664

_COMMAND_LINE = "the command line of the server"

_DATABASES = """
SELECT datname, quote_ident(datname), datallowconn AND datname <> 'template0', dattablespace::int8,
    oid IN (SELECT pg_tablespace_databases(%(source)s)),
    oid IN (SELECT pg_tablespace_databases(%(target)s))
FROM pg_database ORDER BY datname
"""

_ROLE_SETTINGS = """
SELECT d.datname, quote_ident(d.datname), r.rolname, quote_ident(r.rolname), s.setting
FROM pg_db_role_setting g
LEFT JOIN pg_database d ON d.oid = g.setdatabase
LEFT JOIN pg_roles r ON r.oid = g.setrole, unnest(g.setconfig) AS s(setting)
WHERE split_part(s.setting, '=', 1) IN ('default_tablespace', 'temp_tablespaces')
ORDER BY 1, 3, 5
"""

_SERVER_SETTINGS = """
SELECT name, setting, sourcefile || ':' || sourceline FROM pg_file_settings
WHERE applied AND lower(name) IN ('default_tablespace', 'temp_tablespaces')
UNION ALL
SELECT name, reset_val, %(command_line)s FROM pg_settings
WHERE name IN ('default_tablespace', 'temp_tablespaces') AND source = 'command line'
ORDER BY 1
"""


@dataclass(frozen=True)
class Database:
    """A database, and what is known of it without connecting to it.

    Attributes:
        quoted: its name as SQL needs it.
        reachable: whether it allows connections.
        tablespace: OID of its default tablespace.
        in_source: whether it has files in the tablespace that is to be emptied.
        in_target: whether it has files in the other one.
    """

    name: str
    quoted: str
    reachable: bool
    tablespace: int
    in_source: bool
    in_target: bool


@dataclass(frozen=True)
class Remaining:
    """Something that stays where it is.

    Attributes:
        database: its name; empty for what belongs to none.
        what: it is, in words.
        remedy: what to do, with the statement where there is one.
    """

    database: str
    what: str
    remedy: str


@dataclass(frozen=True)
class NamedInSetting:
    """A setting that puts new objects into the tablespace that is to be emptied.

    Attributes:
        where: of whom it is, or the file and line.
        value: as it is now.
        statement: the SQL that changes it, or what else to do.
    """

    where: str
    name: str
    value: str
    statement: str


def read_databases(cursor: Any, source: int, target: int) -> list[Database]:
    """Return all databases of the cluster."""
    cursor.execute(_DATABASES, {"source": source, "target": target})
    return [Database(*row) for row in cursor.fetchall()]


def remaining_of(
    database: Database, contents: Contents | None, source: int, target: str, *, skipped: bool
) -> list[Remaining]:
    """Return what of a database cannot be moved by a session, or was not looked at.

    Args:
        contents: what it has in the tablespace; ``None`` when nobody looked.
        target: quoted name of the other tablespace.
        skipped: whether others than this database were asked for.
    """
    found: list[Remaining] = []
    if database.tablespace == source:
        # template0 of pg_default holds what initdb made, and nothing else.
        if not (database.name == "template0" and source == PG_DEFAULT):
            found.append(_whole(database, contents, target))
    elif contents is None and database.in_source:
        found.append(_unseen(database, skipped))
    if contents is None:
        return found
    found += [
        Remaining(
            database.name,
            f"system catalog {name}, which was moved there by hand",
            f"SET allow_system_table_mods = on; ALTER TABLE {name} SET TABLESPACE {target}",
        )
        for name in contents.catalogs
    ]
    if contents.temporary:
        found.append(
            Remaining(
                database.name,
                f"{contents.temporary} temporary relations of sessions",
                "They end with their sessions",
            )
        )
    return found


def _whole(database: Database, contents: Contents | None, target: str) -> Remaining:
    statement = f"ALTER DATABASE {database.quoted} SET TABLESPACE"
    has_files = contents is not None and any(not m.in_catalog_only for m in contents.movable)
    third = "NAME, where NAME is a tablespace that holds nothing of it yet"
    if database.in_target:
        remedy = f"{statement} {third}; PostgreSQL refuses {target}, which has tables of it"
    elif has_files:
        remedy = (
            f"{statement} {target}, which moves all of it at once; once a table of it was moved, "
            f"PostgreSQL refuses that: then {statement} {third}"
        )
    else:
        remedy = f"{statement} {target}"
    return Remaining(
        database.name,
        "the system catalogs, large objects and sequences of the database",
        f"While nobody is connected to it: {remedy}",
    )


def _unseen(database: Database, skipped: bool) -> Remaining:
    if database.reachable and skipped:
        return Remaining(database.name, "what it has there", f"--database {database.name}")
    return Remaining(
        database.name,
        "what it has there: it allows no connections",
        f"ALTER DATABASE {database.quoted} ALLOW_CONNECTIONS true, and run this again",
    )


def read_settings(cursor: Any, source: str, target: str) -> list[NamedInSetting]:
    """Return the settings of server, databases and roles that name the tablespace ``source``.

    Args:
        source: its name, not quoted.
        target: the name of the other one, not quoted.
    """
    found: list[NamedInSetting] = []
    cursor.execute(_ROLE_SETTINGS)
    for database, quoted_database, role, quoted_role, setting in cursor.fetchall():
        name, _, value = setting.partition("=")
        changed = _changed(name, value, source, target)
        if changed is None:
            continue
        if role is None and database is None:
            where, prefix = "all roles", "ALTER ROLE ALL"
        elif role is None:
            where, prefix = f"database {database}", f"ALTER DATABASE {quoted_database}"
        else:
            where, prefix = f"role {role}", f"ALTER ROLE {quoted_role}"
            if database is not None:
                where += f" in database {database}"
                prefix += f" IN DATABASE {quoted_database}"
        found.append(NamedInSetting(where, name, value, f"{prefix} SET {name} = {changed}"))
    cursor.execute(_SERVER_SETTINGS, {"command_line": _COMMAND_LINE})
    for name, value, where in cursor.fetchall():
        changed = _changed(name.lower(), value, source, target)
        if changed is not None:
            statement = f"ALTER SYSTEM SET {name} = {changed}; SELECT pg_reload_conf()"
            if where == _COMMAND_LINE:
                statement = f"start the server with {name} = {changed}"
            found.append(NamedInSetting(where, name, value, statement))
    return found


def settings_of_functions(
    database: str, contents: Contents, source: str, target: str
) -> list[NamedInSetting]:
    """Return the settings of functions and procedures that name the tablespace ``source``."""
    found: list[NamedInSetting] = []
    for function, setting in contents.function_settings:
        name, _, value = setting.partition("=")
        changed = _changed(name, value, source, target)
        if changed is not None:
            where = f"{function} in database {database}"
            statement = f"ALTER ROUTINE {function} SET {name} = {changed}"
            found.append(NamedInSetting(where, name, value, statement))
    return found


def _changed(name: str, value: str, source: str, target: str) -> str | None:
    """Return the value for SQL with the other tablespace, ``None`` when it does not name it."""
    if name == "default_tablespace":
        return f"'{target.replace(chr(39), chr(39) * 2)}'" if value == source else None
    names = _names(value)
    if source not in names:
        return None
    kept: Mapping[str, None] = dict.fromkeys(target if n == source else n for n in names)
    return ", ".join(f'"{n.replace(chr(34), chr(34) * 2)}"' for n in kept)


def _names(value: str) -> Sequence[str]:
    """Return the names of a list as PostgreSQL reads it."""
    found = re.findall(r'"((?:[^"]|"")*)"|([^",\s]+)', value)
    return [quoted.replace('""', '"') if quoted else plain.lower() for quoted, plain in found]
