"""The command line itself; whole runs are in oltp/test_whole_runs.py."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import typer
from tde_bench import cli
from tde_bench.cli import oltp as oltp_command
from tde_bench.cli.option_checks import check_outputs, numbers, settings_of
from tde_bench.errors import BenchError
from tde_bench.oltp.parameters import OltpParameters
from tde_bench.workloads.names import WorkloadName
from typer.testing import CliRunner


@pytest.fixture(scope="module")
def help_text() -> str:
    result = CliRunner().invoke(cli.app, ["oltp", "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert result.exit_code == 0
    return result.output


def _shown(parameters: OltpParameters, field: str) -> str:
    value = getattr(parameters, field)
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


# There are none unless they are given.
FIELDS = [f.name for f in dataclasses.fields(OltpParameters) if f.name != "settings"]


@pytest.mark.parametrize("field", FIELDS)
def test_help_states_the_defaults_in_use(help_text: str, field: str) -> None:
    """The defaults depend on --quick, so the help spells them out; it must not go stale."""
    full, quick = (_shown(p, field) for p in (OltpParameters(), OltpParameters.quick()))
    expected = f"Default: {full}." if full == quick else f"Default: {full}; quick: {quick}."
    if full == "None":
        expected = "instead of as many transactions as possible."
    option = f"--{field.replace('_', '-')}"
    lines = help_text.splitlines()
    first = next(i for i, line in enumerate(lines) if re.search(rf"{option}[\s,]", line))
    # A long text goes on in the following lines.
    assert expected in " ".join(line.strip(" │") for line in lines[first : first + 3])


def test_quick_run_is_short() -> None:
    """Set-up and checkpoints take the rest of the promised 90 seconds."""
    assert OltpParameters.quick().load_seconds(configurations=3) <= 45


def test_given_values_replace_defaults() -> None:
    parameters = OltpParameters.quick().with_given(scale=(99,), rounds=None)
    assert (parameters.scale, parameters.rounds) == ((99,), OltpParameters.quick().rounds)


@pytest.mark.parametrize(
    ("aes", "existing", "names"),
    [
        ([], [], ["none", "aes128", "aes256"]),
        ([256], [], ["none", "aes256"]),
        ([], ["host=/a=mine", "host=/b"], ["mine", "server2"]),
        ([128], ["host=/a=mine"], ["none", "aes128", "mine"]),
    ],
)
def test_what_is_compared(aes: list[int], existing: list[str], names: list[str]) -> None:
    chosen = oltp_command._configurations(aes, existing)
    assert [configuration.name for configuration in chosen] == names


def test_a_control_is_a_second_server_without_encryption() -> None:
    chosen = oltp_command._configurations([256], [], control=True)
    assert [configuration.name for configuration in chosen] == ["none", "aes256", "control"]
    assert chosen[-1].algorithm is None


def test_what_connects_or_waits_much_gets_longer_slices() -> None:
    def slices(**given: Any) -> list[int]:
        return OltpParameters.choose(name=WorkloadName.TPCB, quick=False, **given).slices

    assert slices() == [1] * 15
    assert slices(rate=100.0) == [5, 5, 5]
    assert slices(clients=(1, 64), duration=8) == [5, 3]
    assert slices(slice=4) == [4, 4, 4, 3]


def test_other_key_sizes_are_refused() -> None:
    result = CliRunner().invoke(cli.app, ["oltp", "--aes", "192"])
    assert result.exit_code == 2
    assert "must be 128 or 256" in result.output


def test_points_of_a_sweep_have_fewer_rounds_unless_told() -> None:
    name = WorkloadName.TPCB
    one = OltpParameters.choose(name=name, quick=False, clients=(4,))
    sweep = OltpParameters.choose(name=name, quick=False, clients=(1, 4), duration=20)
    assert (one.points, sweep.points) == (1, 2)
    assert (one.rounds, sweep.rounds, sweep.duration) == (12, 6, 20)
    assert sweep.document()["sweep"] == {"scale": [20], "clients": [1, 4]}
    assert sweep.document()["clients"] == 1


def test_lists_of_numbers() -> None:
    assert numbers("--clients", None) is None
    assert numbers("--clients", "1,4, 16") == (1, 4, 16)
    for text in ("", "1,", "0", "x", "1,1", "-1", "1.5"):
        with pytest.raises(BenchError, match="--clients"):
            numbers("--clients", text)


def test_options_that_tpcc_cannot_follow_are_refused() -> None:
    result = CliRunner().invoke(cli.app, ["oltp", "--workload=tpcc", "--rate=5"])
    assert isinstance(result.exception, BenchError)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("/nonexistent/x.csv", "does not exist"),
        ("/proc/x.csv", "/proc/x.csv cannot be written"),
        ("/tmp", "/tmp exists and is not a file"),
        ("/dev/null", "/dev/null exists and is not a file"),
    ],
)
@pytest.mark.parametrize("option", ["--csv", "--json"])
def test_outputs_that_cannot_be_written_are_refused_before_the_run(
    option: str, file: str, message: str
) -> None:
    result = CliRunner().invoke(cli.app, ["oltp", "--shared-buffers=16MB", f"{option}={file}"])
    assert isinstance(result.exception, BenchError)
    assert message in str(result.exception)


def test_checking_an_output_leaves_nothing_and_changes_nothing(tmp_path: Path) -> None:
    old = tmp_path / "old.json"
    old.write_text("kept")
    check_outputs([old, tmp_path / "new.json", None], [])
    assert [path.name for path in tmp_path.iterdir()] == ["old.json"]
    assert old.read_text() == "kept"


def test_settings_of_the_servers() -> None:
    assert settings_of(["io_method=sync", "work_mem = 1MB"]) == {
        "io_method": "sync",
        "work_mem": "1MB",
    }
    for wrong in ("io_method", "=sync"):
        with pytest.raises(typer.BadParameter, match="is no NAME=VALUE"):
            settings_of([wrong])


def test_a_workload_without_other_protocols_says_so() -> None:
    arguments = ["oltp", "--workload=many-relations", "--protocol=prepared"]
    result = CliRunner().invoke(cli.app, arguments)
    assert isinstance(result.exception, BenchError)
    assert "has only the simple protocol" in str(result.exception)
