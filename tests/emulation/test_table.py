"""What runs under emulation exists, what does not has a reason, and the table counts both."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.emulation import AREAS, UNABLE, why_not
from tests.emulation.run import REPOSITORY
from tests.emulation.table import table
from tests.junit import Case, Result

EMULATED_SH = REPOSITORY / "tests/distributions/emulated.sh"


def run(*command: object, qemu: object = "/bin/true") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "QEMU": str(qemu)}
    return subprocess.run(
        [EMULATED_SH, *map(str, command)], env=environment, capture_output=True, text=True
    )


def test_areas_are_of_tests_that_exist() -> None:
    for area in AREAS:
        assert all((REPOSITORY / path).exists() for path in area.tests), area


@pytest.mark.parametrize("start", UNABLE)
def test_what_cannot_run_is_a_test_and_is_skipped_under_emulation_only(
    start: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, name = start.split("::")
    assert f"def {name.partition('[')[0]}" in (REPOSITORY / path).read_text(encoding="utf-8")
    monkeypatch.delenv("EMULATED", raising=False)
    assert why_not(start) is None
    monkeypatch.setenv("EMULATED", "qemu")
    assert why_not(start) == UNABLE[start]
    assert why_not("tests/page/test_codec.py::test_anything") is None


def test_the_table_counts_and_names_reasons() -> None:
    cases = [
        Case("a.py::test_a", Result.PASSED, "", {}),
        Case("a.py::test_b", Result.FAILED, "", {}),
        Case("a.py::test_c", Result.SKIPPED, "no such file", {}),
        Case("a.py::test_d", Result.SKIPPED, "no such file", {}),
    ]
    first, second, *_ = AREAS
    lines = table({first.key: cases, second.key: []}).splitlines()
    assert f"| {first.title} | 1 | 1 | 2 |" in lines
    assert f"| {second.title} | – | – | – |" in lines
    assert lines[-1] == "* 2 skipped: no such file"


def test_the_kernel_is_told_only_what_can_work(tmp_path: Path) -> None:
    assert "name a command" in run().stderr
    if os.geteuid() != 0:
        assert "only root" in run("true").stderr
        return
    missing = run("true", qemu=tmp_path / "missing")
    if missing.returncode == 0:
        pytest.skip("this machine runs programs for 64-bit ARM already")
    assert "qemu-user-static" in missing.stderr
    done = run("cat", "/proc/sys/fs/binfmt_misc/qemu-aarch64", qemu="/bin/true")
    if done.returncode != 0:  # Before Linux 6.7, or in a chroot.
        assert re.search("only for the whole machine|no namespace of users", done.stderr)
        return
    assert "interpreter /bin/true\n" in done.stdout
    assert run("sh", "-c", "exit 3").returncode == 3
    assert not Path("/proc/sys/fs/binfmt_misc/qemu-aarch64").exists()
