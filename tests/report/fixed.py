"""A report of which everything is given: no clock, no machine, and names that mean harm."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from uuid import UUID

from tde.algorithms import Algorithm
from tde.audit import AuditLine, AuditReport, FileClass, Finding, FindingKind, PlainFiles
from tde.doctor import DoctorReport
from tde.doctor.report import Finding as Check, Group
from tde.machine.verdict import Verdict as CheckVerdict
from tde.postgres import CopyKind, PlainCopies, PlainCopy
from tde.report.model import (
    Key,
    KeyLog,
    Keystore,
    Library,
    LogLine,
    Machine,
    Maker,
    NotExamined,
    Report,
    Secret,
    Section,
    Server,
    Tablespace,
    WayToOpen,
)

MADE = datetime(2026, 11, 29, 12, 30, 5, tzinfo=timezone.utc)
BEFORE = datetime(2025, 1, 31, 8, 0, 0, tzinfo=timezone.utc)
DATA = Path('/srv/pg/"main" <b>&amp;</b>\x1b[2J\n</style><script>alert(0)</script>')
SCRIPT = "<script>alert('x')</script>"
LONGEST = "w" * 63
HEBREW = "שלום עולם"
OVERRIDE = "evil\u202egnp.exe"
KEY_ID = "f0c1995f7e2a4029b83a4a95197a1a87"


def fixed_report() -> Report:
    """Return a report with findings, gaps and every kind of row."""
    return Report(
        id=UUID(int=0x0123456789ABCDEF0123456789ABCDEF),
        made=MADE,
        maker=Maker("root", "alice", "db1.example.org", "0.1.0", "3.11.7"),
        machine=Machine("db1", "Debian GNU/Linux 13", "Linux 6.12.0", "x86_64", "AMD EPYC 9B14"),
        server=Server(
            DATA,
            "17.6",
            Path("/usr/lib/postgresql/17/bin"),
            True,
            4711,
            True,
            "in production",
            True,
            7713540903307167402,
            "tablespaces",
        ),
        archives=(Path("/srv/archive"),),
        backups=(Path(f"/srv/backup/{SCRIPT}"),),
        libraries=(
            Library("pages", "OpenSSL 3.5.8", "/lib/\udcff/libcrypto.so.3", "fips", True),
            Library("keystore", "OpenSSL 4.0.3", "/venv", "", None, "Argon2id is not approved."),
        ),
        audit=_audit(),
        tablespaces=(
            Tablespace(1663, "pg_default", "", "plaintext", "1663.key", ("postgres", SCRIPT)),
            Tablespace(16400, LONGEST, "/srv/ts", "AES-256-XTS", f"{KEY_ID}.key", (HEBREW,)),
            Tablespace(16401, OVERRIDE, "/srv/ts2", "AES-128-XTS", "other.key", ()),
        ),
        keystore=Keystore(
            Path("/srv/tde/keystore"),
            UUID(int=1),
            BEFORE,
            UUID(int=2),
            (
                Secret("master key", BEFORE, 3, "365 days"),
                Secret("passphrase", None, 0, ""),
            ),
            True,
            (
                WayToOpen("passphrase", "Argon2id, 64 MiB", "he has to guess it"),
                WayToOpen("auto-open", "auto-open.key", "he has the keys"),
            ),
        ),
        keys=_keys(),
        secret_problems=(("the master key is 667 days old", "tde keystore rotate"),),
        key_log=_log(),
        doctor=_doctor(),
        not_examined=(
            NotExamined(Section.MACHINE, "Swap space", "nothing tells whether sda2 is encrypted"),
            NotExamined(Section.PLAINTEXT, f"copies in database {SCRIPT}", "no connections"),
        ),
    )


def _audit() -> AuditReport:
    heap = Path("/srv/pg/main/base/5/16384")
    relation, wal = FileClass.RELATION, FileClass.WAL
    aes256, aes128 = Algorithm.AES256, Algorithm.AES128
    return AuditReport(
        data_directory=DATA,
        running=True,
        scope="tablespaces",
        checksums=True,
        lines=(
            AuditLine(
                "cluster", relation, 1663, "pg_default", None, 900, 73_500_000, by_decision=True
            ),
            AuditLine(
                "cluster",
                relation,
                16400,
                f"16400 in /srv/ts/tde-{KEY_ID}",
                aes256,
                12,
                98_304_000,
                11_999,
                0,
                findings=1,
            ),
            AuditLine("cluster", wal, None, "WAL", aes128, 4, 67_108_864, 6483, 1000, 700, 9),
            AuditLine(
                "cluster",
                FileClass.EPHEMERAL,
                None,
                "temporary files",
                None,
                3,
                24_700,
                random=3,
                too_short=1,
            ),
            AuditLine(
                f"backup /srv/backup/{SCRIPT}",
                relation,
                16400,
                "16400",
                aes256,
                12,
                98_304_000,
                11_990,
                0,
                torn=10,
            ),
        ),
        findings=(
            Finding(
                FindingKind.PLAIN_PAGE,
                heap,
                f"{heap}: block 60 is stored in plaintext",
                "Somebody wrote past tde. Rewrite the relation.",
                block=60,
                blocks=1,
            ),
        ),
        warnings=(
            Finding(FindingKind.ZERO_PAGES, heap, f"{heap}: block 7 is zeros", "Look at it.", 7, 1),
        ),
        plain=(
            PlainFiles("`global/pg_control`", "positions and settings", 1, 8192, False),
            PlainFiles("`pg_stat_tmp/*.stat`", "texts of statements", 2, 900, True),
        ),
        canary=False,
        seconds=1.5,
        plain_copies=PlainCopies(
            True,
            (PlainCopy(SCRIPT, CopyKind.INDEX, f'public."{SCRIPT}"', "t", "pg_default"),),
            unread={HEBREW: "it allows no connections"},
        ),
    )


def _keys() -> tuple[Key, ...]:
    return (
        Key(
            "wal.key",
            "the WAL",
            "AES-128-XTS",
            "deactivated",
            "entry 9",
            "WAL",
            50_331_648,
            True,
            BEFORE,
            BEFORE,
            667,
            365,
        ),
        Key(
            f"wal.2.{KEY_ID}.key",
            "the WAL, key 2",
            "AES-128-XTS",
            "active",
            "WAL",
            "WAL",
            50_331_648,
            True,
            BEFORE,
            BEFORE,
            667,
            365,
            "the key of the WAL, key 2, is 667 days old",
            "tde wal rotate -D DIR",
        ),
        Key(
            "1663.key",
            "tablespace 1663 (pg_default)",
            "",
            "",
            "",
            "pg_default",
            50_331_648,
            True,
            None,
            None,
            None,
            None,
        ),
        Key(
            f"{KEY_ID}.key",
            f"key {KEY_ID}",
            "",
            "unknown",
            "name the clusters with -D",
            "",
            50_331_648,
            True,
            None,
            None,
            None,
            None,
            problem=f"keys/{KEY_ID}.key was altered",
            remedy="Restore it.",
        ),
        Key(
            "16390.key",
            "tablespace 16390",
            "AES-256-XTS",
            "destroyed",
            "entry 12",
            "",
            None,
            False,
            BEFORE,
            BEFORE,
            None,
            None,
        ),
    )


def _log() -> KeyLog:
    first = LogLine(1, BEFORE, "create keystore", "root", "db1", "tde keystore create", "")
    failed = LogLine(
        7,
        MADE,
        "fail to open keystore",
        f"mallory as {SCRIPT}",
        "db1",
        "tde pg start",
        "why WrongPassphraseError",
    )
    return KeyLog(
        Path("/srv/tde/keystore/key.log"),
        12,
        11,
        True,
        ("line 4 was altered",),
        5,
        (first,),
        (failed,),
        (first, failed),
    )


def _doctor() -> DoctorReport:
    return DoctorReport(
        DATA,
        "17.6",
        4711,
        "the running server",
        (
            Check("swap", Group.MACHINE, "Swap space", CheckVerdict.UNKNOWN, "sda2", "Look."),
            Check("access", Group.CLUSTER, "Access", CheckVerdict.OK, "mode 0700"),
            Check("log", Group.LEFTOVERS, "Log files", CheckVerdict.PROBLEM, SCRIPT, "chmod 0600"),
        ),
    )
