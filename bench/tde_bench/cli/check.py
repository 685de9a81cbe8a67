"""``tde-bench check``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tde.cli.common import EXIT_INTERRUPTED, console, error_console, examples
from tde_bench.cli.common import check_outputs
from tde_bench.lifecycle import signals_interrupt
from tde_bench.options import BindirOption, DirectoryOption, JsonFileOption

if TYPE_CHECKING:
    from tde_bench.check.benchmark import CheckParameters
    from tde_bench.check.results import CheckResult

_EPILOG = examples(
    "# On the commit that is known to be good; keep the file in the repository:",
    "tde-bench check --json baseline.json",
    "# On every later one:",
    "tde-bench check --baseline baseline.json --junit check.xml",
)
EXIT_REGRESSION = 1

BaselineOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        exists=True,
        dir_okay=False,
        help="JSON of an earlier check, from this machine or another one.",
    ),
]
JunitOption = Annotated[
    Path | None, typer.Option("--junit", metavar="FILE", help="Write the verdicts as JUnit XML.")
]
MarginOption = Annotated[
    float,
    typer.Option(
        min=0.0, help="How much more a ratio may be, beyond the noise of the run; 0.1 is 10 %."
    ),
]
CheckRoundsOption = Annotated[
    int | None, typer.Option(min=1, help="Rounds; fewer than 6 decide nothing. Default: 7.")
]
CheckSeedOption = Annotated[int | None, typer.Option(help="Seed of the bootstrap. Default: 1.")]


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(epilog=_EPILOG)(check)


def check(
    baseline: BaselineOption = None,
    margin: MarginOption = 0.1,
    rounds: CheckRoundsOption = None,
    bindir: BindirOption = None,
    directory: DirectoryOption = None,
    json_file: JsonFileOption = None,
    junit_file: JunitOption = None,
    seed: CheckSeedOption = None,
) -> None:
    """Tell whether encryption has become more expensive than in a baseline; for CI.

    Compares CPU time per unit of work as ratios: AES-256 to a plain server, the page core to
    openssl speed. Exit status 1 means a regression.
    """
    check_outputs([json_file, junit_file], [])
    # Imported here, because pandas and SciPy take a second that `--help` should not wait for.
    from tde_bench.check.benchmark import CheckParameters
    from tde_bench.check.report import print_findings, print_quantities, write_junit
    from tde_bench.check.results import read_baseline
    from tde_bench.check.verdict import judge

    # Read first: a baseline that cannot be used should not cost two minutes.
    expected = None if baseline is None else read_baseline(baseline)
    parameters = CheckParameters().with_given(rounds=rounds, seed=seed)
    result, finished = _run(parameters, json_file, bindir=bindir, directory=directory)
    quantities = result.quantities()
    if expected is None or not finished:
        print_quantities(result, quantities, console)
    if not finished:
        error_console.print("Interrupted. What was measured until then is above.")
        raise typer.Exit(EXIT_INTERRUPTED)
    if expected is not None:
        findings = judge(quantities, expected, margin=margin)
        print_findings(result, findings, margin, console)
        if junit_file is not None:
            write_junit(findings, junit_file)
        if any(finding.verdict.fails for finding in findings):
            raise typer.Exit(EXIT_REGRESSION)


def _run(
    parameters: CheckParameters,
    json_file: Path | None,
    *,
    bindir: Path | None,
    directory: Path | None,
) -> tuple[CheckResult, bool]:
    """Measure, saving after every round; return the result and whether the run was finished."""
    from tde_bench.check.benchmark import CheckBenchmark, steps
    from tde_bench.outcome import write_json
    from tde_bench.progress import live_progress

    def save(result: CheckResult) -> None:
        if json_file is not None:
            write_json(result, json_file)

    with live_progress(error_console, steps(parameters)) as observer:
        benchmark = CheckBenchmark(parameters, observer, save)
        with signals_interrupt():
            try:
                benchmark.run(bindir=bindir, directory=directory)
            except KeyboardInterrupt:
                return benchmark.result, False
    return benchmark.result, True
