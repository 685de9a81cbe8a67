"""The report as people and programs get it, and its documentation."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import pytest
from machine_tree import Machine
from typer.testing import CliRunner

from tde.cli.app import app
from tde.doctor import DoctorReport, Finding, Group, MachineFiles, Verdict
from tde.doctor.runner import CHECKS
from tde.machine.checks import warn_of_machine

DOCTOR = Path(__file__).parents[2] / "docs" / "doctor.md"


def report_of(*verdicts: Verdict) -> DoctorReport:
    findings = tuple(
        Finding("swap", Group.MACHINE, "Swap space", verdict, f"detail {i}", f"remedy {i}")
        for i, verdict in enumerate(verdicts)
    )
    return DoctorReport(None, None, None, "", findings)


@pytest.fixture
def run(monkeypatch):
    def run(report: DoctorReport, *arguments: str):
        monkeypatch.setattr("tde.postgres.doctor", lambda *a, **k: report, raising=False)
        monkeypatch.delenv("PGDATA", raising=False)
        return CliRunner().invoke(app, ["pg", "doctor", *arguments])

    return run


@pytest.mark.parametrize(
    ("verdicts", "exit_code"),
    [
        ([Verdict.OK], 0),
        ([Verdict.OK, Verdict.WARNING], 0),
        ([Verdict.WARNING, Verdict.PROBLEM], 1),
        # What could not be looked at may be a problem.
        ([Verdict.OK, Verdict.UNKNOWN], 1),
    ],
)
def test_exit_codes(run, verdicts, exit_code):
    assert run(report_of(*verdicts)).exit_code == exit_code
    assert run(report_of(*verdicts), "--json").exit_code == exit_code


def test_problems_and_their_remedies_are_seen_first(run):
    shown = run(report_of(Verdict.WARNING, Verdict.PROBLEM)).stdout
    assert shown.index("What to do") < shown.index("remedy 1") < shown.index("remedy 0")
    assert "1 warning, 1 problem" in shown


def test_a_remedy_for_many_is_printed_once(run):
    report = report_of(Verdict.PROBLEM)
    finding = report.findings[0]
    twin = Finding("core_dumps", Group.MACHINE, "Core dumps", finding.verdict, "d", finding.remedy)
    report = DoctorReport(None, None, None, "", (finding, twin))
    shown = run(report).stdout
    assert shown.count("remedy 0") == 1
    assert "Swap space and 1 more" in shown


def test_json_has_every_field(run):
    document = json.loads(run(report_of(Verdict.PROBLEM), "--json").stdout)
    assert document["healthy"] is False
    assert document["findings"] == [
        {
            "check": "swap",
            "group": "Machine",
            "title": "Swap space",
            "verdict": "problem",
            "detail": "detail 0",
            "remedy": "remedy 0",
        }
    ]


def test_a_start_warns_of_the_machine(tmp_path, caplog):
    machine = Machine(tmp_path)
    with caplog.at_level(logging.WARNING):
        warn_of_machine(MachineFiles(tmp_path))
        assert caplog.text == ""
        machine.device("vdb")
        machine.swap("/dev/vdb")
        warn_of_machine(MachineFiles(tmp_path))
    assert "/dev/vdb" in caplog.text
    assert "swapoff /dev/vdb" in caplog.text


def test_every_check_is_documented():
    chapter = DOCTOR.read_text().split("\n## ")[1]  # "Is this machine fit"
    documented = set(re.findall(r"^\| `(\w+)`", chapter, re.MULTILINE))
    assert documented == {check.name for check in CHECKS}
