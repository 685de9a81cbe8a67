"""``tde-bench check``: what counts as a regression, and what CI gets to see of it.

The long tests run the real command; a slowed cipher (slow_cipher.c) is the regression.
"""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from xml.etree import ElementTree

import numpy as np
import pytest
from rich.console import Console
from tde_bench import cli
from tde_bench.check.benchmark import CheckBenchmark, CheckParameters
from tde_bench.check.quantities import CheckRun, Quantity
from tde_bench.check.results import CheckResult, read_baseline
from tde_bench.check.tables import conclusion, findings_table
from tde_bench.check.verdict import Comparison, Verdict, judge
from tde_bench.errors import BenchError, NotMeasuredError
from tde_bench.measure.result_files import write_json
from tde_bench.measure.statistics import Estimate
from tde_bench.report.reading import read_result
from typer.testing import CliRunner

SOURCE = Path(__file__).with_name("slow_cipher.c")
DEADLINE_SECONDS = 1200


def _runs(ratios: Sequence[float], nulls: Sequence[float]) -> list[CheckRun]:
    return [
        CheckRun(number, "scan", measured=ratio, reference=1.0, first=1.0, second=null)
        for number, (ratio, null) in enumerate(zip(ratios, nulls, strict=True))
    ]


def _result(runs: list[CheckRun], status: str = "complete") -> CheckResult:
    return CheckResult(
        parameters={"seed": 1},
        labels={"none": "no encryption", "aes256": "AES-256"},
        units={"scan": ("scan ÷ plain", "row")},
        runs=runs,
        status=status,
    )


def _quantity(ratios: Sequence[float], nulls: Sequence[float] = (1.0,) * 7) -> Quantity:
    (quantity,) = _result(_runs(ratios, nulls)).quantities()
    return quantity


def _verdict(quantity: Quantity, baseline: float, margin: float = 0.1) -> Verdict:
    comparison = Comparison({"scan": Estimate(baseline, None, None, 7)}, margin)
    (finding,) = judge([quantity], comparison)
    return finding.verdict


AROUND_ONE = (0.98, 0.99, 1.0, 1.0, 1.0, 1.01, 1.02)


@pytest.mark.parametrize(
    ("factor", "verdict"),
    [
        (1.0, Verdict.OK),
        (1.09, Verdict.OK),
        # Its median is beyond what is allowed, but its interval is not.
        (1.105, Verdict.UNDECIDED),
        (1.3, Verdict.REGRESSION),
        (0.7, Verdict.IMPROVED),
    ],
)
def test_a_regression_is_an_interval_beyond_baseline_and_margin(
    factor: float, verdict: Verdict
) -> None:
    quantity = _quantity([1.25 * factor * value for value in AROUND_ONE])
    assert _verdict(quantity, baseline=1.25) is verdict


def test_noise_between_equal_turns_widens_what_is_allowed() -> None:
    ratios = [1.25 * 1.3 * value for value in AROUND_ONE]
    assert _verdict(_quantity(ratios), baseline=1.25) is Verdict.REGRESSION
    noisy = _quantity(ratios, (0.6, 0.7, 0.8, 1.0, 1.2, 1.3, 1.4))
    assert noisy.noise >= 0.3
    assert _verdict(noisy, baseline=1.25) is not Verdict.REGRESSION


def test_the_smallest_slowdown_that_could_be_found_is_told() -> None:
    quantity = _quantity(AROUND_ONE, (0.95, 0.96, 0.97, 1.0, 1.0, 1.0, 1.0))
    comparison = Comparison({"scan": Estimate(2.0, 1.9, 2.2, 7)}, 0.1)
    (finding,) = judge([quantity], comparison)
    expected = 2.2 * (1.1 + quantity.noise) / 2.0
    assert quantity.noise > 0
    assert finding.smallest_slowdown == pytest.approx(expected)
    assert finding.to_json()["smallest_slowdown"] == pytest.approx(expected)
    table = findings_table([finding])
    (column,) = (column for column in table.columns if column.header == "finds")
    assert list(column.cells) == [f"+{expected - 1:.0%}"]
    # A quantity that the baseline lacks has nothing to be slower than.
    assert judge([quantity], Comparison({}, 0.1))[0].smallest_slowdown is None


def test_the_table_fits_a_terminal() -> None:
    quantity = replace(_quantity(AROUND_ONE), label="encrypt AES-128 ÷ openssl")
    findings = judge([quantity], Comparison({"scan": Estimate(0.5, 0.4, 0.5, 7)}, 0.1))
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(findings_table(findings))
    text = console.export_text()
    assert "REGRESSION" in text
    assert "…" not in text


def test_a_check_that_can_find_little_says_so() -> None:
    (quiet,) = judge([_quantity(AROUND_ONE)], Comparison({"scan": Estimate(1.0, 0.9, 1.1, 9)}, 0.1))
    assert conclusion([quiet]) == "The check passed."
    (blind,) = judge([_quantity(AROUND_ONE)], Comparison({"scan": Estimate(1.0, 0.5, 2.0, 9)}, 0.1))
    assert "could not have found 50% more in scan" in conclusion([blind])


def test_few_rounds_decide_nothing() -> None:
    assert _verdict(_quantity((3.0,) * 5, (1.0,) * 5), baseline=1.0) is Verdict.UNDECIDED


def test_quantities_that_only_one_side_has() -> None:
    quantity = _quantity(AROUND_ONE)
    findings = judge([quantity], Comparison({"gone": Estimate(1.0, None, None, 7)}, 0.1))
    assert [finding.verdict for finding in findings] == [Verdict.NEW, Verdict.MISSING]
    assert [finding.verdict.fails for finding in findings] == [False, True]


def test_unchanged_code_rarely_fails_on_a_noisy_machine() -> None:
    """Equal costs under 15 % of noise per turn, with outliers: hardly an alarm in 40 checks."""
    generator = np.random.default_rng(7)

    def turns() -> Any:
        noise = generator.normal(1.0, 0.15, 9).clip(0.5)
        return noise * np.where(generator.random(9) < 0.05, 3.0, 1.0)

    def check() -> Quantity:
        first, measured, second = turns(), 1.25 * turns(), turns()
        return _result(
            [
                CheckRun(i, "scan", measured[i], (first[i] + second[i]) / 2, first[i], second[i])
                for i in range(9)
            ]
        ).quantities()[0]

    verdicts = [_verdict(check(), baseline=check().ratio.median) for _ in range(40)]
    assert verdicts.count(Verdict.REGRESSION) <= 1


def _write(path: Path, ratios: Sequence[float], status: str = "complete") -> Path:
    write_json(_result(_runs(ratios, (1.0,) * len(ratios)), status), path)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": {"name": "tde-bench/check", "version": 3}}, "has the schema"),
        ({"schema": {"name": "tde-bench/oltp", "version": 1}}, "has the schema"),
        ({"status": "interrupted"}, "is interrupted"),
        ({"quantities": [{"name": "scan"}]}, "is not a result"),
    ],
)
def test_a_file_that_is_no_baseline_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    file = _write(tmp_path / "baseline.json", AROUND_ONE)
    assert read_baseline(file, 0.1).baseline["scan"].median == 1.0
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(BenchError, match=message):
        read_baseline(file, 0.1)


def _describe(result: CheckResult, **changed: Any) -> None:
    """Give a result the machine that it was measured on."""
    values = {"model": "CPU A", "flags": ["aes"], "version": "15.3", "openssl": "OpenSSL 3.0.2 x"}
    values |= changed
    result.metadata["cpu"] = {"model": values["model"], "flags": values["flags"]}
    result.facts["none"] = {"server_version": values["version"], "openssl": "Python's"}
    result.facts["aes256"] = {"server_version": values["version"], "openssl": values["openssl"]}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, ""),
        # Minor versions, and the dates of builds, are no reason.
        ({"version": "15.9 (Debian)", "openssl": "OpenSSL 3.0.2 y"}, ""),
        ({"model": "CPU B"}, "The CPU of the baseline is CPU A, but here it is CPU B"),
        (
            {"flags": ["aes", "vaes"]},
            "of the baseline is aes, but here it is aes, vaes",
        ),
        ({"version": "16.1"}, "The PostgreSQL of the baseline is 15, but here it is 16"),
        ({"openssl": "OpenSSL 3.5.0 x"}, "is OpenSSL 3.0.2, but here it is OpenSSL 3.5.0"),
    ],
)
def test_a_baseline_of_another_machine_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any], words: str
) -> None:
    made = _result(_runs(AROUND_ONE, (1.0,) * 7))
    _describe(made)
    write_json(made, tmp_path / "baseline.json")
    comparison = read_baseline(tmp_path / "baseline.json", 0.1)
    benchmark = CheckBenchmark(CheckParameters(rounds=0), Mock(), Mock(), comparison)

    def set_up(self: CheckBenchmark, server: Any) -> Mock:
        _describe(self.result, **changed)
        return Mock()

    monkeypatch.setattr(CheckBenchmark, "_set_up", set_up)
    benchmark._measure_all(Mock(), Mock(), Path("openssl"))
    warnings = [text for text in benchmark.result.warnings if "baseline" in text]
    assert len(warnings) == bool(words)
    assert all(words in text for text in warnings)


def test_a_baseline_of_version_1_is_one(tmp_path: Path) -> None:
    file = _write(tmp_path / "baseline.json", AROUND_ONE)
    document = json.loads(file.read_text())
    del document["margin"], document["findings"]
    document["schema"]["version"] = 1
    file.write_text(json.dumps(document))
    assert read_baseline(file, 0.1).baseline["scan"].median == 1.0
    read = read_result(file)
    assert isinstance(read, CheckResult)
    assert read.comparison is None


@pytest.mark.parametrize(("factor", "code"), [(1.0, 0), (2.0, 1)])
def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: float, code: int) -> None:
    def measure(self: CheckBenchmark, **options: Any) -> None:
        self.result.units = {"scan": ("scan ÷ plain", "row")}
        self.result.runs = _runs([factor * value for value in AROUND_ONE], (1.0,) * 7)
        self.result.status = "complete"
        self._save(self.result)

    monkeypatch.setattr(CheckBenchmark, "run", measure)
    baseline, junit = _write(tmp_path / "baseline.json", AROUND_ONE), tmp_path / "check.xml"
    json_file, summary = tmp_path / "check.json", tmp_path / "check.md"
    arguments = ["check", f"--baseline={baseline}", f"--junit={junit}", f"--json={json_file}"]
    done = CliRunner().invoke(cli.app, arguments, env={"COLUMNS": "80"})
    assert done.exit_code == code, done.output
    document = json.loads(json_file.read_text())
    assert document["margin"] == 0.1
    (finding,) = document["findings"]
    assert finding["verdict"] == ("REGRESSION" if code else "ok")
    assert (finding["baseline"]["median"], round(finding["allowed"], 9)) == (1.0, 1.122)
    assert finding["reason"].startswith(f"scan ÷ plain: {factor:.3f} of its reference")
    done_report = CliRunner().invoke(cli.app, ["report", str(json_file), f"--markdown={summary}"])
    assert done_report.exit_code == 0, done_report.output
    text = summary.read_text()
    assert ("The check failed: scan ÷ plain." in text) == (code == 1)
    assert f"| scan ÷ plain | 1.000 | {factor:.3f} |" in text
    assert "| +12% |" in text
    assert finding["reason"] in text
    assert ("REGRESSION" in done.output) == (code == 1)
    suite = ElementTree.parse(junit).getroot().find("testsuite")
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures")) == ("1", str(code))
    failures = [failure.get("message", "") for failure in suite.iter("failure")]
    assert len(failures) == code
    assert all("scan ÷ plain: 2.000" in message for message in failures)


def _fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def measure(self: CheckBenchmark, **options: Any) -> None:
        raise error

    monkeypatch.setattr(CheckBenchmark, "run", measure)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        BenchError("No space left on device"),
        # Nobody has foreseen this one.
        LookupError("No space left on device"),
    ],
)
def test_what_could_not_be_measured_is_no_regression(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    _fail_with(monkeypatch, error)
    baseline, junit = _write(tmp_path / "baseline.json", AROUND_ONE), tmp_path / "check.xml"
    done = CliRunner().invoke(cli.app, ["check", f"--baseline={baseline}", f"--junit={junit}"])
    assert isinstance(done.exception, NotMeasuredError)
    assert done.exception.exit_code == 3
    assert "No space left on device" in str(done.exception)
    suite = ElementTree.parse(junit).getroot().find("testsuite")
    assert suite is not None
    assert (suite.get("errors"), suite.get("failures")) == ("1", "0")
    (shown,) = suite.iter("error")
    assert "No space left on device" in shown.get("message", "")


def test_an_interrupted_check_says_so_in_junit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fail_with(monkeypatch, KeyboardInterrupt())
    baseline, junit = _write(tmp_path / "baseline.json", AROUND_ONE), tmp_path / "check.xml"
    done = CliRunner().invoke(cli.app, ["check", f"--baseline={baseline}", f"--junit={junit}"])
    assert done.exit_code == 130
    (shown,) = ElementTree.parse(junit).getroot().iter("error")
    assert "interrupted" in shown.get("message", "")


def test_a_baseline_that_cannot_be_used_is_status_3(tmp_path: Path) -> None:
    baseline = _write(tmp_path / "baseline.json", AROUND_ONE, status="failed")
    done = _check(f"--baseline={baseline}")
    assert done.returncode == 3
    assert "is failed" in done.stderr


def test_junit_needs_a_baseline(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli.app, ["check", f"--junit={tmp_path}/check.xml"])
    assert done.exit_code == 2
    assert "--baseline" in done.output


def test_help_names_every_status() -> None:
    done = CliRunner().invoke(cli.app, ["check", "--help"], env={"COLUMNS": "200"})
    assert "1 regression, 2 wrong usage, 3 could not be measured, 130 interrupted" in done.output


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory that the server's user can reach; pytest's own is private to this user."""
    path = Path(tempfile.mkdtemp(prefix="tde-check-test-", dir="/var/tmp"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path)


def _check(*arguments: str, preload: Path | None = None) -> subprocess.CompletedProcess[str]:
    # Calls into a second library do not pass what is preloaded.
    environment = {**os.environ, "TDE_LIBCRYPTO": "system"}
    if preload is not None:
        environment["LD_PRELOAD"] = str(preload)
    command = [sys.executable, "-m", "tde_bench", "check", *arguments]
    return subprocess.run(
        command,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_SECONDS,
    )


@pytest.mark.slow
@pytest.mark.timeout(3 * DEADLINE_SECONDS)
def test_a_slowed_cipher_fails(folder: Path) -> None:
    library = folder / "libslow_cipher.so"
    compiler = ["cc", "-O2", "-shared", "-fPIC", str(SOURCE), "-o", str(library)]
    subprocess.run([*compiler, "-Wl,--no-as-needed", "-lcrypto", "-ldl"], check=True)
    baseline = folder / "baseline.json"
    done = _check(f"--json={baseline}", f"--directory={folder}")
    assert done.returncode == 0, done.stderr
    slowed = _check(f"--baseline={baseline}", f"--directory={folder}", preload=library)
    assert slowed.returncode == 1, slowed.stdout + slowed.stderr
    # On the page core and on the server.
    for quantity in ("encrypt AES-256", "decrypt AES-256", "scan"):
        (line,) = (line for line in slowed.stdout.splitlines() if line.startswith(f" {quantity}"))
        assert "REGRESSION" in line
    assert {path.name for path in folder.iterdir()} == {library.name, baseline.name}


@pytest.mark.slow
@pytest.mark.timeout(10 * DEADLINE_SECONDS)
def test_an_unchanged_tree_passes_ten_times_out_of_ten(folder: Path) -> None:
    """The other long tests, which run at the same time, are the noise."""
    baseline = folder / "baseline.json"
    done = _check(f"--json={baseline}", f"--directory={folder}")
    assert done.returncode == 0, done.stderr
    for _ in range(10):
        done = _check(f"--baseline={baseline}", f"--directory={folder}")
        assert done.returncode == 0, done.stdout + done.stderr
