"""``tde-bench check``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tde.console.apps import examples
from tde.console.errors import EXIT_INTERRUPTED
from tde.console.output import console, error_console
from tde_bench.cli.failures import in_plain_words
from tde_bench.cli.option_checks import check_outputs
from tde_bench.cli.options import DirectoryOption, JsonFileOption, ServerProgramsOption
from tde_bench.cli.runs import progress_and_saving, what_ended
from tde_bench.errors import NotMeasuredError

if TYPE_CHECKING:
    from tde_bench.check.benchmark import CheckParameters
    from tde_bench.check.results import CheckResult
    from tde_bench.check.verdict import Comparison

_EPILOG = examples(
    "# On the commit that is known to be good; keep the file in the repository:",
    "tde-bench check --json baseline.json",
    "# On every later one:",
    "tde-bench check --baseline baseline.json --junit check.xml",
) + (
    "\n\nExit codes: 0 no regression, 1 regression, 2 wrong usage, 3 could not be measured, "
    "130 interrupted."
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
    int | None, typer.Option(min=1, help="Rounds; fewer than 6 decide nothing. Default: 9.")
]


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(epilog=_EPILOG)(check)


def check(
    baseline: BaselineOption = None,
    margin: MarginOption = 0.1,
    rounds: CheckRoundsOption = None,
    bindir: ServerProgramsOption = None,
    directory: DirectoryOption = None,
    json_file: JsonFileOption = None,
    junit_file: JunitOption = None,
) -> None:
    """Tell whether encryption has become more expensive than in a baseline; for CI.

    Compares CPU time per unit of work as ratios: AES-256 to a plain server, the page core to
    openssl speed. Exit status 1 means a regression, 3 that it could not be measured.
    """
    if junit_file is not None and baseline is None:
        raise typer.BadParameter(
            "there are no verdicts to write without --baseline", param_hint="--junit"
        )
    with _failures_are_no_verdict(junit_file):
        check_outputs([json_file, junit_file], [])
        # Imported here, because pandas and SciPy take a second that `--help` should not wait for.
        from tde_bench.check.benchmark import CheckParameters
        from tde_bench.check.results import read_baseline
        from tde_bench.check.tables import print_check

        # Read first: a baseline that cannot be used should not cost two minutes.
        comparison = None if baseline is None else read_baseline(baseline, margin)
        parameters = CheckParameters().with_given(rounds=rounds)
        result, finished = _run(
            parameters, comparison, json_file, bindir=bindir, directory=directory
        )
        print_check(result, console)
        if junit_file is not None:
            _write_junit(result, junit_file, finished=finished)
    if not finished:
        error_console.print("Interrupted. What was measured until then is above.")
        raise typer.Exit(EXIT_INTERRUPTED)
    if any(finding.verdict.fails for finding in result.findings()):
        raise typer.Exit(EXIT_REGRESSION)


@contextmanager
def _failures_are_no_verdict(junit_file: Path | None) -> Iterator[None]:
    """Keep what went wrong apart from a regression, in the exit status and in the JUnit file.

    Raises:
        NotMeasuredError: instead of every other error.
    """
    try:
        yield
    except BrokenPipeError:
        raise  # Nobody reads the output any more; this is no failure of the measurement.
    except Exception as error:
        failure = in_plain_words(error)
        if failure is None:
            # An error that nobody has foreseen; its place in the source is all there is to say.
            error_console.print_exception()
            failure = NotMeasuredError(f"an error inside tde-bench: {error!r}")
        if junit_file is not None:
            from tde_bench.check.junit import write_failure

            # The disk may be what is full; the error itself must be seen nevertheless.
            with suppress(OSError):
                write_failure(str(failure), junit_file)
        raise NotMeasuredError(str(failure), remedy=failure.remedy) from error


def _write_junit(result: CheckResult, junit_file: Path, *, finished: bool) -> None:
    from tde_bench.check.junit import write_failure, write_verdicts

    if finished:
        write_verdicts(result.findings(), junit_file)
    else:
        write_failure("the run was interrupted", junit_file)


def _run(
    parameters: CheckParameters,
    comparison: Comparison | None,
    json_file: Path | None,
    *,
    bindir: Path | None,
    directory: Path | None,
) -> tuple[CheckResult, bool]:
    """Measure, saving after every round; return the result and whether the run was finished."""
    from tde_bench.check.benchmark import CheckBenchmark, steps

    with progress_and_saving(steps(parameters), json_file) as (observer, save):
        benchmark = CheckBenchmark(parameters, observer, save, comparison)
        end = what_ended(lambda: benchmark.run(bindir=bindir, directory=directory))
    if isinstance(end, Exception):
        raise end
    return benchmark.result, end is None
