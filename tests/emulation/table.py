"""``make aarch64``: write the table of docs/compatibility.md from the reports of the chroot."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tests.docs.pages import write_between
from tests.emulation import AREAS
from tests.emulation.run import REPORTS, REPOSITORY
from tests.junit import Case, Result, read_report

PAGE = REPOSITORY / "docs" / "compatibility.md"
BEGIN, END = "<!-- begin of aarch64 -->", "<!-- end of aarch64 -->"
CHROOT = Path("/var/tmp/tde-aarch64/srv/tde")


def table(cases: Mapping[str, Sequence[Case]]) -> str:
    """Return the table, and below it why tests were skipped.

    Args:
        cases: by the key of their area; one without any was not tried.
    """
    lines = ["| what | passed | failed | skipped |", "|---|---|---|---|"]
    reasons: Counter[str] = Counter()
    for area in AREAS:
        counted = Counter(case.result for case in cases.get(area.key, ()))
        words = [f"{counted[result]:,}" for result in (Result.PASSED, Result.FAILED)]
        words.append(f"{counted[Result.SKIPPED]:,}")
        lines.append(f"| {area.title} | {' | '.join(words if counted else ['–'] * 3)} |")
        reasons.update(case.reason for case in cases.get(area.key, ()) if case.reason)
    return "\n".join([*lines, "", *_listed(reasons)])


def _listed(reasons: Mapping[str, int]) -> Iterable[str]:
    for reason, count in sorted(reasons.items()):
        text = f"* {count} skipped: {reason}"
        yield from textwrap.wrap(text, 120, subsequent_indent="  ", break_on_hyphens=False)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make aarch64", description=__doc__)
    parser.add_argument(
        "--from", dest="checkout", type=Path, default=CHROOT, help=f"the checkout there [{CHROOT}]"
    )
    reports = parser.parse_args().checkout / REPORTS
    cases = {area.key: _cases(reports / f"{area.key}.xml") for area in AREAS}
    write_between(PAGE, BEGIN, END, table(cases))
    return 0


def _cases(report: Path) -> Sequence[Case]:
    return list(read_report(report)) if report.exists() else []


if __name__ == "__main__":
    sys.exit(main())
