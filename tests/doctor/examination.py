"""What the doctor's tests ask of its reports."""

from __future__ import annotations

from collections.abc import Collection

from tde.doctor import DoctorReport, Finding, Group, Verdict
from tde.postgres import doctor

CLUSTER = (Group.CLUSTER,)
LEFTOVERS = (Group.LEFTOVERS,)


def examine(made, groups: Collection[Group] = CLUSTER, **arguments: object) -> DoctorReport:
    cluster = made.cluster
    arguments.setdefault("binaries", cluster.binaries)
    return doctor(cluster.data_directory, os_user=cluster.os_user, groups=groups, **arguments)


def only(report: DoctorReport, check: str, verdict: Verdict) -> Finding:
    """Return the one finding of a check that is not fine, and expect it to be as bad as that."""
    (found,) = [f for f in report.named(check) if f.verdict is not Verdict.OK]
    assert found.verdict is verdict, found
    assert found.remedy
    return found


def require_ok(report: DoctorReport, check: str) -> None:
    found = report.named(check)
    assert found
    assert {f.verdict for f in found} == {Verdict.OK}, found


def require_healthy(report: DoctorReport) -> None:
    """Expect no defect; the machine that runs the tests may have its own, for example swap."""
    defects = report.of(Verdict.PROBLEM, Verdict.UNKNOWN)
    assert [found for found in defects if found.group is not Group.MACHINE] == []
