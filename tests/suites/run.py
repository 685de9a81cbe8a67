"""Run one suite with the programs of one directory: stock, or wrappers that encrypt."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tde.postgres import OsUser
from tde.postgres.server.pidfile import is_server_of
from tests.suites.results import (
    FAIL,
    PASS,
    Suite,
    TestResult,
    parse_regress,
    parse_schedule,
    parse_tap,
)
from tests.suites.sources import Tree

# Suites in the order they run: short ones first, so that a mistake shows early.
TAP_SUITES = {
    "pg_controldata": "src/bin/pg_controldata",
    "pg_resetwal": "src/bin/pg_resetwal",
    "pg_checksums": "src/bin/pg_checksums",
    "pg_waldump": "src/bin/pg_waldump",
    "pg_walsummary": "src/bin/pg_walsummary",
    "pg_verifybackup": "src/bin/pg_verifybackup",
    "pg_combinebackup": "src/bin/pg_combinebackup",
    "pg_rewind": "src/bin/pg_rewind",
    "pg_basebackup": "src/bin/pg_basebackup",
    "recovery": "src/test/recovery",
    "pg_upgrade": "src/bin/pg_upgrade",
}
REGRESS_SUITES = {"regress": "parallel_schedule", "isolation": "isolation_schedule"}
SUITES = (*REGRESS_SUITES, *TAP_SUITES)

# No test of these suites needs longer on a slow machine; a server that hangs must not stop all.
TAP_TIMEOUT = 30 * 60
REGRESS_TIMEOUT = 90 * 60

# tde makes clusters whose logs hold no rows; some tests wait for lines that it leaves out.
STOCK_LOG = "log_error_verbosity = default\nlog_min_error_statement = error\n"

Report = Callable[[str, TestResult], None]


@dataclass(frozen=True)
class Runner:
    """What all suites of one version and side have in common."""

    tree: Tree
    bindir: Path
    """The directory that comes first in PATH."""
    scratch: Path
    os_user: OsUser | None
    jobs: int
    retries: int
    stop: threading.Event = field(default_factory=threading.Event)
    """Set when the run is interrupted: tests have sessions of their own, Ctrl-C is ours only."""

    @property
    def _log_settings(self) -> Path:
        """What tests append to the configuration of a cluster that they make."""
        return self.scratch / "log.conf"

    def run(self, suite: str, only: Sequence[str], report: Report) -> Suite:
        """Run a suite and report each result as it comes.

        Args:
            suite: one of ``suites_of(major)``.
            only: programs of a TAP suite to run, by the start of their names; all when empty.
            report: called with the name and the result of each test, from any thread.
        """
        folder = self.scratch / suite
        shutil.rmtree(folder, ignore_errors=True)
        for needed in (folder, self.scratch / "ports"):
            self._make(needed)
        if suite in REGRESS_SUITES:
            return self._run_schedule(suite, folder, report)
        programs = tap_programs(self.tree, suite, only)
        self._log_settings.write_text(STOCK_LOG)

        def run_one(program: Path) -> tuple[str, TestResult]:
            result = self._run_until_it_passes(program, folder / program.stem)
            report(program.stem, result)
            return program.stem, result

        with ThreadPoolExecutor(self.jobs) as pool:
            try:
                return dict(pool.map(run_one, programs))
            except BaseException:
                self.stop.set()
                pool.shutdown(cancel_futures=True)
                raise

    def _run_until_it_passes(self, program: Path, folder: Path) -> TestResult:
        """Run a TAP program, again when it fails: many of them depend on timing."""
        for attempt in range(1, self.retries + 2):
            shutil.rmtree(folder, ignore_errors=True)
            self._make(folder)
            started = time.monotonic()
            command = ["perl", "-I", str(self.tree.source / "src/test/perl"), "-I", "."]
            command.append(f"t/{program.name}")
            output, status = self._execute(command, program.parent.parent, folder, TAP_TIMEOUT)
            result = parse_tap(output, status)
            result.seconds = round(time.monotonic() - started, 1)
            result.attempts = attempt
            if self.stop.is_set():
                break
            if result.status != FAIL:
                # What passed is not looked at again, and its clusters take gigabytes.
                shutil.rmtree(folder)
                break
        return result

    def _run_schedule(self, suite: str, folder: Path, report: Report) -> Suite:
        source = self.tree.source / "src/test" / suite
        schedule = source / REGRESS_SUITES[suite]
        program = "pg_regress" if suite == "regress" else "pg_isolation_regress"
        command = [
            str(source / program),
            # An empty --bindir makes it look for all programs in PATH.
            *("--bindir=", f"--dlpath={self.tree.source}/src/test/regress"),
            *(f"--inputdir={source}", f"--outputdir={folder}"),
            *(f"--temp-instance={folder}/instance", f"--schedule={schedule}"),
            "--max-concurrent-tests=20",
        ]
        started = time.monotonic()
        output, _ = self._execute(command, folder, folder, REGRESS_TIMEOUT)
        results = parse_regress(output, parse_schedule(schedule.read_text()))
        passed = sum(result.status == PASS for result in results.values())
        for name, result in results.items():
            if result.status != PASS:
                report(name, result)
        seconds = round(time.monotonic() - started, 1)
        report("its other scripts", TestResult(PASS, passed=passed, seconds=seconds))
        return results

    def _execute(
        self, command: Sequence[str], folder: Path, output: Path, timeout: float
    ) -> tuple[str, int]:
        """Run a test program as the unprivileged user; return what it printed and its status."""
        log = output / "output.log"
        user = self.os_user
        with log.open("wb") as file:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=self._environment(output),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=user.uid if user else None,
                group=user.gid if user else None,
                extra_groups=user.groups if user else None,
            )
            try:
                status = self._wait(process, timeout)
            finally:
                _end_servers(output)
        return log.read_text(errors="replace"), status

    def _wait(self, process: subprocess.Popen[bytes], timeout: float) -> int:
        """Wait for a test; end it when its time is over or the run is interrupted."""
        deadline = time.monotonic() + timeout
        try:
            while time.monotonic() < deadline and not self.stop.is_set():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return process.wait(1)
        except KeyboardInterrupt:
            _end(process)
            raise
        return _end(process)

    def _make(self, folder: Path) -> None:
        """Make a folder that the tests' user may write to."""
        folder.mkdir(parents=True, exist_ok=True)
        if self.os_user is not None:
            os.chown(folder, self.os_user.uid, self.os_user.gid)

    def _environment(self, output: Path) -> dict[str, str]:
        """Return what the makefiles set for installcheck, with ``bindir`` first in PATH."""
        source = self.tree.source
        return {
            "PATH": f"{self.bindir}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(output),
            "LANG": "C.UTF-8",
            "PERL5LIB": str(source / "src/test/perl"),
            "PGPORT": "65432",
            "PG_REGRESS": str(source / "src/test/regress/pg_regress"),
            "REGRESS_SHLIB": str(source / "src/test/regress/regress.so"),
            "top_builddir": str(source),
            "share_contrib_dir": str(self.tree.share / "extension"),
            # 15 knows one folder of a test, later versions one for data and one for logs.
            "TESTDIR": str(output),
            "TESTDATADIR": str(output / "tmp_check"),
            "TESTLOGDIR": str(output / "log"),
            "PG_TEST_PORT_DIR": str(self.scratch / "ports"),
            "PG_TEST_TIMEOUT_DEFAULT": "300",
            "TEMP_CONFIG": str(self._log_settings),
            "TAR": "tar",
            "GZIP_PROGRAM": "gzip",
            "LZ4": shutil.which("lz4") or "",
            "ZSTD": "",
            "with_ssl": "openssl",
            "with_icu": "no",
            "enable_injection_points": "yes" if self.tree.major >= 17 else "no",
        }


def suites_of(tree: Tree) -> list[str]:
    """Return the suites that this version has."""
    return [name for name in SUITES if name in REGRESS_SUITES or tap_programs(tree, name)]


def tap_programs(tree: Tree, suite: str, only: Sequence[str] = ()) -> list[Path]:
    """Return the programs of a TAP suite, those of ``only`` when it names any."""
    programs = sorted((tree.source / TAP_SUITES[suite] / "t").glob("*.pl"))
    return [p for p in programs if not only or p.stem.startswith(tuple(only))]


def _end(process: subprocess.Popen[bytes]) -> int:
    """End a test that hangs: gently, because its Perl then stops its servers, else by force."""
    process.terminate()
    try:
        return process.wait(60)
    except subprocess.TimeoutExpired:
        # The group is the test's own session; servers have left it, see below.
        os.killpg(process.pid, signal.SIGKILL)
        return process.wait()


def _end_servers(folder: Path) -> None:
    """End servers that a test left behind; pg_ctl has put them into sessions of their own."""
    for pidfile in folder.rglob("postmaster.pid"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            pid = int(pidfile.read_text().split()[0])
            # A stale file may hold the number of a process that is none of ours.
            if is_server_of(pid, pidfile.parent):
                os.kill(pid, signal.SIGQUIT)
