"""What people see of an audit, on wide and narrow terminals."""

from __future__ import annotations

from pathlib import Path

import pytest

from tde import Algorithm
from tde.audit import AuditLine, AuditReport, FileClass
from tde.cli.pg import audit_view

LONG = "16389 in /srv/fast-disks/tablespaces/customers-of-all-countries"


def report() -> AuditReport:
    relation = (FileClass.RELATION, 16389, LONG, Algorithm.AES256)
    lines = (
        AuditLine("cluster", FileClass.RELATION, 1663, "pg_default", Algorithm.AES256,
                  files=12_891, bytes=5_100_000_000, verified=12_602_797, zero=10_136),
        AuditLine("cluster", *relation, files=1_003, bytes=532_500, verified=65, findings=12),
        AuditLine("cluster", FileClass.WAL, None, "WAL", Algorithm.AES256,
                  files=64, bytes=1_073_741_824, verified=68, recycled=70_000, unproven=12_000),
        AuditLine("cluster", FileClass.EPHEMERAL, None, "temporary files", None, files=1,
                  bytes=8192, random=1),
        AuditLine("backup /srv/b", *relation, files=3, bytes=532_500, by_decision=True),
    )  # fmt: skip
    return AuditReport(Path("/srv/pg"), True, "cluster", True, lines, (), (), (), False, 1.0)


@pytest.mark.parametrize("width", [60, 80, 100, 132, 250])
def test_no_cell_is_cut_off(capsys, monkeypatch, width):
    monkeypatch.setattr(audit_view.console, "width", width)
    audit_view.print_report(report())
    shown = capsys.readouterr().out
    table = shown.split("\n\n")[0].splitlines()[1:]
    assert max(map(len, table)) <= max(width, 80)
    words = {word.rstrip(",") for line in table for word in line.split()}
    assert words >= {"Verdict", "encrypted", "12", "FINDINGS", "decision", "70,000", "12,602,797"}
    letters = "".join(line[:44].split("  ")[0] for line in table).replace(" ", "")
    assert width < 132 or LONG.replace(" ", "") in letters
