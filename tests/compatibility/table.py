"""``make compatibility``: run on each release of Debian, and write the table of the page.

This machine tries its own servers and those of the wheel, chroots the others (see
tests/distributions/run.sh), which takes some hours. With ``--write`` nothing runs: the table is
written from the results that are there.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.compatibility.columns import COLUMNS, UPGRADES
from tests.compatibility.run import REPOSITORY, RESULTS, Cell, read_cells
from tests.docs.pages import write_between

PAGE = REPOSITORY / "docs" / "compatibility.md"
BEGIN, END = "<!-- begin of the table -->", "<!-- end of the table -->"
RUN_SH = REPOSITORY / "tests" / "distributions" / "run.sh"


@dataclass(frozen=True)
class Chroot:
    """A release of Debian's, and the versions that are tried there.

    Attributes:
        suite: the release.
        versions: those whose packages are this release's.
        upgrades: whether all versions are installed there.
    """

    suite: str
    versions: Sequence[int]
    upgrades: bool = False

    def run(self, root: Path) -> None:
        keys = [column.key for column in COLUMNS] + [UPGRADES.key] * self.upgrades
        environment = {
            **os.environ,
            "TESTED_SERVERS": " ".join(map(str, self.versions)),
            "COMPATIBILITY_ARGS": " ".join(f"--column {key}" for key in keys),
        }
        command = [str(RUN_SH), "--root", str(root), "--target", "compatibility-here", self.suite]
        subprocess.run(command, env=environment, check=False)
        made = root / "srv/tde/build/compatibility"
        for path in made.glob("*.json"):
            shutil.copy(path, RESULTS)


CHROOTS = (Chroot("trixie", [17]), Chroot("sid", [18, 19], upgrades=True))
HERE = (15, 16)


def run_here() -> None:
    """Try what this machine has; pg_upgrade is left to where all versions are."""
    columns = [word for column in COLUMNS for word in ("--column", column.key)]
    environment = {**os.environ, "TESTED_SERVERS": " ".join(map(str, HERE))}
    command = [sys.executable, "-m", "tests.compatibility.run", *columns]
    subprocess.run(command, cwd=REPOSITORY, env=environment, check=False)


def _words(cell: Cell | None) -> str:
    """Return what a cell says: how many tests passed, and how many did not."""
    if cell is None or not (cell.passed or cell.failed):
        return "–"
    if cell.failed:
        return f"{len(cell.passed):,}, **{len(cell.failed)} failed**"
    return f"{len(cell.passed):,}"


def _upgrades(cell: Cell | None) -> Mapping[int, str]:
    """Return, by the old version, the later ones and in how many modes the upgrade worked."""
    worked: dict[int, Counter[str]] = defaultdict(Counter)
    failed: dict[int, list[str]] = defaultdict(list)
    if cell is None:
        return {}
    for name in cell.passed:
        old, new, _ = _pair(name)
        worked[old][new] += 1
    for name in cell.failed:
        old, new, mode = _pair(name)
        failed[old].append(f"**not {new} by {mode}**")
    said = {}
    for old in {*worked, *failed}:
        later = [f"{new} ({modes})" for new, modes in sorted(worked[old].items())]
        said[old] = ", ".join([*later, *failed[old]])
    return said


def _pair(node_id: str) -> tuple[int, str, str]:
    """Return the old version, the new one and the mode that a test's ID names."""
    old, new, mode = node_id.rpartition("[")[2].rstrip("]").split("-", 2)
    return int(old), new, mode


def table(cells: Iterable[Cell]) -> str:
    """Return the table and what belongs to it."""
    by_place = {(cell.major, cell.column): cell for cell in cells}
    upgraded = _upgrades(by_place.get((0, UPGRADES.key)))
    titles = [column.title for column in COLUMNS]
    head = ["PostgreSQL", "from", *titles, UPGRADES.title]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    extensions = []
    for major in sorted({major for major, _ in by_place if major}):
        of_major = [by_place.get((major, column.key)) for column in COLUMNS]
        some = next(cell for cell in of_major if cell is not None)
        words = [some.server, some.release]
        for column, cell in zip(COLUMNS, of_major, strict=True):
            count = column.key == "extensions" and cell is not None and not cell.failed
            words.append(str(len(cell.extensions)) if count and cell else _words(cell))
            if column.key == "extensions" and cell is not None and cell.extensions:
                extensions.append(f"* {major}: {', '.join(cell.extensions)}")
        lines.append(f"| {' | '.join([*words, upgraded.get(major, '–')])} |")
    return "\n".join([*lines, "", *_folded(extensions)])


def _folded(lines: Iterable[str], width: int = 120) -> list[str]:
    folded: list[str] = []
    for line in lines:
        folded += textwrap.wrap(line, width, subsequent_indent="  ", break_on_hyphens=False)
    return folded


def main() -> int:
    parser = argparse.ArgumentParser(prog="make compatibility", description=__doc__)
    parser.add_argument("--write", action="store_true", help="only write the table")
    parser.add_argument(
        "--roots", type=Path, default=Path("/var/tmp"), help="where chroots are [/var/tmp]"
    )
    options = parser.parse_args()
    if not options.write:
        RESULTS.mkdir(parents=True, exist_ok=True)
        run_here()
        for chroot in CHROOTS:
            chroot.run(options.roots / f"tde-{chroot.suite}")
    cells = list(read_cells(RESULTS))
    write_between(PAGE, BEGIN, END, table(cells))
    failed = [f"{cell.column} {cell.major}: {name}" for cell in cells for name in cell.failed]
    print("\n".join(failed) or "everything passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
