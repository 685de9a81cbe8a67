"""The run of a benchmark on the command line: its progress, its files, and its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import typer

from tde.console.errors import EXIT_INTERRUPTED
from tde.console.output import error_console
from tde_bench.measure.signals import signals_interrupt

if TYPE_CHECKING:
    from tde_bench.measure.observer import Observer
    from tde_bench.measure.result_files import Document, RawRuns

AnyResult = TypeVar("AnyResult", bound="RawRuns")


@contextmanager
def progress_and_saving(
    total_seconds: int, json_file: Path | None
) -> Iterator[tuple[Observer, Callable[[Document], None]]]:
    """Show progress for the time of a ``with`` block, in which a benchmark is made and run.

    Yields its observer, and the function that saves its result in ``json_file``, if that was
    asked for.
    """
    from tde_bench.measure.result_files import write_json
    from tde_bench.present.progress import live_progress

    def save(result: Document) -> None:
        if json_file is not None:
            write_json(result, json_file)

    with live_progress(error_console, total_seconds) as observer:
        yield observer, save


def write_files(
    result: AnyResult,
    csv_file: Path | None,
    chart_file: Path | None,
    write_chart: Callable[[AnyResult, Path], None],
) -> None:
    """Write the files that are made once, at the end, as far as they were asked for."""
    from tde_bench.measure.result_files import write_csv

    if csv_file is not None:
        write_csv(result, csv_file)
    if chart_file is not None and result.runs:
        write_chart(result, chart_file)


# What has ended a run before its time; None for one that was finished.
End = KeyboardInterrupt | Exception | None


def what_ended(run: Callable[[], None]) -> End:
    """Run a benchmark; return what ended it, so that what was measured can be shown before."""
    with signals_interrupt():
        try:
            run()
        except (KeyboardInterrupt, Exception) as end:
            return end
    return None


def show_and_end(show: Callable[[], None], end: End, *, measured: bool) -> None:
    """Show what was measured, then end as the run did.

    Args:
        show: prints and writes the result.
        end: from :func:`what_ended`.
        measured: whether there is anything to show; an error that came before is all there is.

    Raises:
        Exit: with status 130 after an interruption.
        Exception: what has ended the run.
    """
    try:
        if measured or not isinstance(end, Exception):
            show()
    finally:
        if isinstance(end, KeyboardInterrupt):
            error_console.print("Interrupted. What was measured until then is above.")
            raise typer.Exit(EXIT_INTERRUPTED)
        if end is not None:
            raise end
