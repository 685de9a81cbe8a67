"""The archiver of a running server, as its statistics tell."""

from __future__ import annotations

from dataclasses import dataclass

from tde.errors import ProgramError
from tde.postgres.cluster.cluster import Cluster
from tde.postgres.cluster.questions import ask_server

_QUERY = """
SELECT json_build_object(
  'failures', failed_count,
  'failing', coalesce(last_failed_time > coalesce(last_archived_time, '-infinity'), false),
  'segment', last_failed_wal,
  'waiting', (SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'))
FROM pg_stat_archiver
"""


@dataclass(frozen=True)
class Archiver:
    """What a running server says of its archiver.

    Attributes:
        failures: since the statistics were reset.
        failing: whether the last try failed.
        segment: the last that could not be archived.
        waiting: segments that are still to be archived.
    """

    failures: int
    failing: bool
    segment: str
    waiting: int


def ask_for_archiver(cluster: Cluster, username: str | None) -> Archiver:
    """Ask a running server.

    Raises:
        ServerNotRunningError: there is none.
        ProgramError: it did not answer.
    """
    found = ask_server(cluster, _QUERY, username=username)
    try:
        segment = str(found["segment"] or "")
        return Archiver(int(found["failures"]), bool(found["failing"]), segment, found["waiting"])
    except (KeyError, TypeError, ValueError) as error:
        raise ProgramError(f"psql printed something unexpected: {error}") from error
