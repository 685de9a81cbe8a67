"""``make compatibility-here``: try each column with the servers of this machine.

Versions are those of TESTED_SERVERS ("17 18"), or all that are installed. As root, packages that
are missing are installed with apt. What came of each column is written to a file of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tde.postgres import PostgresBinaries
from tests.compatibility.columns import COLUMNS, UPGRADES, Column
from tests.installations import installations, is_packaged, tested_installations
from tests.junit import Result, read_report
from tests.tools.extensions import EXTENSIONS

REPOSITORY = Path(__file__).parents[2]
RESULTS = REPOSITORY / "build" / "compatibility"
# Servers of two versions with five modes; a page of a cluster is written more than once.
_CLONING = "4G"


@dataclass
class Cell:
    """What came of one column with one version.

    Attributes:
        column: its key.
        major: the version; 0 for what was tried with all together.
        server: what the server calls itself.
        release: the distribution, or the wheel.
        seconds: how long it took.
        passed: node IDs of tests.
        failed: node IDs of tests, also of those that ended in an error.
        skipped: node IDs of tests, each with the reason.
        extensions: names of extensions that were tried.
    """

    column: str
    major: int
    server: str
    release: str
    seconds: float = 0.0
    passed: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    extensions: list[str] = field(default_factory=list)

    @property
    def path(self) -> Path:
        return RESULTS / f"{self.column}-{self.major}.json"

    def write(self) -> None:
        RESULTS.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def read_cells(directory: Path) -> Iterator[Cell]:
    for path in sorted(directory.glob("*.json")):
        yield Cell(**json.loads(path.read_text(encoding="utf-8")))


def release_of(binaries: PostgresBinaries) -> str:
    if not is_packaged(binaries):
        return "wheel"
    lines = Path("/etc/os-release").read_text(encoding="utf-8").splitlines()
    facts = dict(line.split("=", 1) for line in lines if "=" in line)
    # What is not yet released has no number; sid calls itself by the name of the next release.
    number = facts.get("VERSION_ID", '"sid"')
    return " ".join(word.strip('"') for word in (facts["NAME"].split()[0], number))


def server_of(binaries: PostgresBinaries) -> str:
    """Return what a server calls itself, for example ``15.20`` or ``19rc1``."""
    command = [str(binaries.program("postgres")), "--version"]
    said: str = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return str(said.split(") ", 1)[1].split()[0])


def update_list() -> None:
    """Ask the mirror what there is, or nothing can be installed."""
    if os.geteuid() == 0 and shutil.which("apt-get") is not None:
        subprocess.run(["apt-get", "update", "-q"], check=True, stdout=subprocess.DEVNULL)


def install(packages: Iterable[str]) -> None:
    """Install packages as far as this release has them; the tests of others are skipped."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    known = [
        name
        for name in packages
        if subprocess.run(["apt-cache", "show", name], capture_output=True).returncode == 0
    ]
    command = ["apt-get", "install", "-qy", "--no-install-recommends", *known]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)


def packages_of(column: Column, major: int) -> list[str]:
    wanted = [name.format(major=major) for name in column.packages]
    if column.key == "extensions":
        wanted += [f"postgresql-{major}-{each.package}" for each in EXTENSIONS if each.package]
    return wanted


@contextmanager
def cloning_file_system() -> Iterator[list[str]]:
    """Yield a command before another: it has a /tmp that clones files, where that can be made."""
    if os.geteuid() != 0 or shutil.which("mkfs.xfs") is None:
        yield []
        return
    with tempfile.TemporaryDirectory(dir=RESULTS) as directory:
        image = Path(directory) / "xfs"
        subprocess.run(["truncate", "-s", _CLONING, image], check=True)
        subprocess.run(["mkfs.xfs", "-q", image], check=True)
        script = f'mount -o loop {image} /tmp && chmod 1777 /tmp && exec "$@"'
        yield ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "apart"]


def run(column: Column, majors: Sequence[int], cell: Cell) -> Cell:
    """Run the tests of a column, and write what came of them."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    report = RESULTS / "report.xml"
    report.unlink(missing_ok=True)
    pytest = [sys.executable, "-m", "pytest", "-q", "-rf", f"--junitxml={report}"]
    workers = ["-n", str(len(os.sched_getaffinity(0)) + 1)]
    environment = {**os.environ, "TESTED_SERVERS": " ".join(map(str, majors))}
    begun = time.monotonic()
    place: AbstractContextManager[list[str]]
    place = cloning_file_system() if column.apart else nullcontext([])
    with place as before:
        command = [*before, *pytest, *workers, *column.arguments]
        subprocess.run(command, cwd=REPOSITORY, env=environment, check=False)
    cell.seconds = round(time.monotonic() - begun, 1)
    for case in read_report(report):
        if case.result is Result.SKIPPED:
            cell.skipped.append(f"{case.node_id}: {case.reason}")
        else:
            (cell.failed if case.result is Result.FAILED else cell.passed).append(case.node_id)
        cell.extensions += case.properties.get("extensions", "").split()
    cell.write()
    return cell


def say(cell: Cell) -> None:
    counts = f"{len(cell.passed)} passed, {len(cell.failed)} failed, {len(cell.skipped)} skipped"
    which = f"PostgreSQL {cell.server}" if cell.major else "all versions"
    print(f"== {which}, {cell.column}: {counts}, {cell.seconds:.0f} s", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make compatibility-here", description=__doc__)
    keys = [column.key for column in (*COLUMNS, UPGRADES)]
    parser.add_argument("--column", action="append", choices=keys, help="again for more [all]")
    options = parser.parse_args()
    chosen = options.column or keys
    failed = False
    update_list()
    for major, binaries in tested_installations().items():
        for column in COLUMNS:
            if column.key not in chosen or (column.of_packages and not is_packaged(binaries)):
                continue
            if is_packaged(binaries):
                install(packages_of(column, major))
            cell = Cell(column.key, major, server_of(binaries), release_of(binaries))
            say(run(column, [major], cell))
            failed |= bool(cell.failed)
    if UPGRADES.key in chosen:
        install(UPGRADES.packages)
        versions = ", ".join(found.version_text for found in installations().values())
        cell = Cell(UPGRADES.key, 0, versions, "")
        say(run(UPGRADES, list(installations()), cell))
        failed |= bool(cell.failed)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
