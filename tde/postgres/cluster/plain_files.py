"""The files that are plain by design, each with the reason: the one list in the product.

``docs/coverage.md`` shows the same rows to people (a test keeps the two equal), the auditor
prints them, and a file that is neither of an encrypted class nor in this list is a finding.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True)
class PlainRule:
    """Some files that ``tde`` leaves in plain text.

    Attributes:
        files: what they are, as docs/coverage.md names them.
        reason: why they may be plain; for a decision, what is in them.
        patterns: regular expressions for whole paths relative to the data directory.
        decision: whether they can hold pieces of rows, which the operator has to decide about.
    """

    files: str
    reason: str
    patterns: tuple[str, ...]
    decision: bool = False


# A file that is replaced atomically exists under such a name for a moment.
_TEMPORARY = r"(?:\.tmp|\.temp|\.\d+)*"

PLAIN_BY_DESIGN = (
    PlainRule(
        "`pg_stat_tmp/pgss_query_texts.stat`, `pg_stat/pg_stat_statements.stat`",
        "`pg_stat_statements` keeps statement texts; utility statements with their literals",
        (r"pg_stat_tmp/pgss_query_texts\.stat", r"pg_stat/pg_stat_statements\.stat"),
        decision=True,
    ),
    PlainRule(
        "the server's log",
        "by default no statements and no rows; an error's first line can quote a typed value; "
        "other settings log more",
        (r"(?:pg_)?log/.+", r"[^/]+\.log", r"current_logfiles"),
        decision=True,
    ),
    PlainRule(
        "`global/pg_control`",
        "positions and settings; `pg_controldata`, `pg_rewind` and cluster managers read it",
        (r"global/pg_control(?:\.old)?",),
    ),
    PlainRule(
        "`PG_VERSION`, `pg_filenode.map`, `pg_internal.init`",
        "catalog numbers and column layouts of system catalogs",
        (r"(?:.+/)?(?:PG_VERSION|pg_filenode\.map|pg_internal\.init)",),
    ),
    PlainRule(
        "`pg_xact`, `pg_multixact`, `pg_subtrans`, `pg_commit_ts`, `pg_serial`",
        "transaction states and times",
        (r"(?:pg_xact|pg_multixact/\w+|pg_subtrans|pg_commit_ts|pg_serial)/[0-9A-F]+",),
    ),
    PlainRule(
        "`pg_twophase`, `pg_logical`, `pg_replslot/*/state`, `pg_snapshots`",
        "transaction, slot and snapshot states, no rows; `pg_twophase` names the global "
        "identifiers that clients chose",
        (
            r"pg_twophase/[0-9A-F]+",
            r"pg_logical/(?:replorigin_checkpoint|snapshots/[^/]+|mappings/[^/]+)",
            r"pg_replslot/[^/]+/state",
            r"pg_snapshots/[^/]+",
        ),
    ),
    PlainRule(
        "`pg_wal/*.history`, `*.backup`, `archive_status`, `summaries`",
        "timelines, labels, block numbers",
        (
            r"(?:.+/)?[0-9A-F]{8}\.history",
            r"(?:.+/)?[0-9A-F]{24}\.[0-9A-F]{8}\.backup",
            r"pg_wal/RECOVERYHISTORY",
            r"pg_wal/archive_status/[^/]+\.(?:ready|done)",
            r"pg_wal/summaries/[^/]+\.summary",
        ),
    ),
    PlainRule(
        "`pg_stat`, `pg_stat_tmp`",
        "counters",
        (r"pg_stat/[^/]+\.stat", r"pg_stat_tmp/[^/]+\.stat"),
    ),
    PlainRule(
        "`backup_label`, `tablespace_map`, `backup_manifest`, `postmaster.*`, configuration",
        "paths, settings, checksums of files; passwords in `primary_conninfo` as without `tde`",
        (
            r"(?:backup_label|tablespace_map)(?:\.old)?",
            r"backup_manifest",
            r"postmaster\.(?:pid|opts)",
            r"(?:standby|recovery)\.signal",
            r"(?:(?!base/|global/|pg_)[^/]+/)*[^/]+\.conf(?:\.sample|\.bak|\.done)?",
            r"[^/]+\.(?:crt|key|pem|crl)",
        ),
    ),
    PlainRule(
        "`tde.keymap`",
        "which key of the keystore each tablespace has: names of keys, no keys",
        (r"\.?tde\.keymap",),
    ),
    PlainRule("`tde.json`", "UUID and path of the keystore", (r"\.?tde\.json",)),
)


@lru_cache(maxsize=1)
def _compiled() -> tuple[tuple[re.Pattern[str], PlainRule], ...]:
    return tuple(
        (re.compile(f"(?:{'|'.join(rule.patterns)}){_TEMPORARY}"), rule) for rule in PLAIN_BY_DESIGN
    )


def plain_rule(name: str) -> PlainRule | None:
    """Return the rule that makes a file plain by design, or ``None`` when there is none.

    Args:
        name: path relative to the data directory, with ``/`` between its parts.
    """
    return next((rule for pattern, rule in _compiled() if pattern.fullmatch(name)), None)
