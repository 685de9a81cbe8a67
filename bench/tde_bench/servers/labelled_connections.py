"""Connections that know which configuration they belong to, so that errors can say it.

The label is in the connection's ``application_name``: it outlives the server, and who looks at
``pg_stat_activity`` of a server sees it as well.
"""

from __future__ import annotations

import psycopg2
from psycopg2 import extensions

from tde_bench.errors import BenchError
from tde_bench.servers.database import Connection, connect

_PREFIX = "tde-bench: "
# What libpq says when PGSERVICE, or its file, is wrong.
_OF_SERVICES = ("definition of service", "service file")


def labelled_connection(label: str, dsn: str, password: str | None = None) -> Connection:
    """Connect in autocommit mode.

    Raises:
        BenchError: when the server cannot be reached or refuses.
    """
    try:
        return connect(extensions.make_dsn(dsn, application_name=_PREFIX + label), password)
    except psycopg2.Error as error:
        # A host whose "name or service" is not known has nothing to do with it.
        service = any(text in str(error) for text in _OF_SERVICES)
        raise BenchError(
            f"{label}: cannot connect: {str(error).strip()}",
            remedy="Unset PGSERVICE, or define that service." if service else "",
        ) from error


def label_of(error: psycopg2.Error) -> str | None:
    """Return the label of the configuration in which a statement failed, None if unknown."""
    if error.cursor is None:
        return None
    name: str = extensions.parse_dsn(error.cursor.connection.dsn).get("application_name", "")
    return name.removeprefix(_PREFIX) if name.startswith(_PREFIX) else None
