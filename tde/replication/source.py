"""What a server says of itself that a standby is to be made of, before anything is copied."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

from tde.errors import ReplicationError
from tde.postgres.cluster.keymap import KEYMAP_FILE, LONGEST_MAP
from tde.postgres.cluster.marker import MARKER_FILE, Marker, parse_marker
from tde.replication.remote import RemoteServer

# The timeline that a primary writes, in SQL. A standby refuses pg_current_wal_lsn().
WRITTEN_TIMELINE = "('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int"
_READER = "pg_read_binary_file(text,bigint,bigint,boolean)"
_FACTS = f"""
SELECT json_build_object(
    'version', current_setting('server_version_num')::int,
    'system', (SELECT system_identifier::text FROM pg_control_system()),
    'recovery', pg_is_in_recovery(),
    'timeline', CASE WHEN pg_is_in_recovery() THEN (SELECT timeline_id FROM pg_control_checkpoint())
        ELSE {WRITTEN_TIMELINE} END,
    'position', (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
        ELSE pg_current_wal_lsn() END - '0/0')::text,
    'level', current_setting('wal_level'),
    'reads', has_function_privilege('{_READER}', 'execute'),
    'tablespaces', (SELECT json_object_agg(oid, spcname) FROM pg_tablespace),
    'places', (SELECT coalesce(json_agg(place), '[]') FROM pg_tablespace,
        pg_tablespace_location(oid) AS place WHERE place <> ''))
"""


@dataclass(frozen=True)
class Source:
    """A server that standbys can be made of.

    Attributes:
        major: its major version.
        system_identifier: the number that it shares with its standbys.
        is_standby: whether it follows another server itself.
        timeline: that it writes; of a standby that of its last restart point.
        position: the end of its WAL, in bytes; of a standby of what it has replayed.
        tablespaces: their names by OID.
        places: directories of tablespaces there.
        tells_keys: whether the role may read what the cluster says of its keys.
        marker: tde.json there; None where it is not encrypted, or not known.
        keymap: tde.keymap there.
    """

    server: RemoteServer
    major: int
    system_identifier: int
    is_standby: bool
    timeline: int
    position: int
    tablespaces: dict[int, str]
    places: tuple[Path, ...]
    tells_keys: bool
    marker: Marker | None = None
    keymap: bytes | None = None


def read_source(server: RemoteServer) -> Source:
    """Ask a server about itself.

    Raises:
        ReplicationError: it does not answer, or cannot have standbys.
    """
    facts = server.ask(_FACTS)
    if facts["level"] == "minimal":
        raise ReplicationError(
            f"the server {server.name} has wal_level=minimal: no standby can follow it",
            remedy="Run tde pg primary there, and restart it.",
        )
    marker = keymap = None
    if facts["reads"]:
        marker_bytes = _read_file(server, MARKER_FILE, 1 << 16)
        where = Path(f"{server.name}:{MARKER_FILE}")
        marker = None if marker_bytes is None else parse_marker(marker_bytes, where)
        keymap = _read_file(server, KEYMAP_FILE, LONGEST_MAP)
    return Source(
        server=server,
        major=facts["version"] // 10000,
        system_identifier=int(facts["system"]),
        is_standby=facts["recovery"],
        timeline=facts["timeline"],
        position=int(facts["position"] or 0),
        tablespaces={int(oid): name for oid, name in facts["tablespaces"].items()},
        places=tuple(Path(place) for place in facts["places"]),
        tells_keys=facts["reads"],
        marker=marker,
        keymap=keymap,
    )


def _read_file(server: RemoteServer, name: str, most: int) -> bytes | None:
    """Return a file of the data directory there; None where there is none."""
    content = f"encode(pg_read_binary_file('{name}', 0, {most}, true), 'base64')"
    query = f"SELECT coalesce(to_json({content}), 'null')"
    found = server.ask(query)
    return None if found is None else base64.b64decode(found)
