"""The progress of a run, shown while it goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from tde_bench.measure.observer import Observer


class LiveProgress:
    """Shows events as a bar with the remaining time, and keeps finished runs as lines above it.

    Where standard error is not a terminal (CI), only the lines appear.

    Args:
        console: where to draw; standard error, so that the result alone is on standard output.
        total_seconds: the seconds under load of the whole run, warm-up included.
    """

    def __init__(self, console: Console, total_seconds: int) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            # Extrapolates from the pace so far, so set-up and checkpoints are part of it. The
            # long period keeps it steady across the pauses between runs.
            TimeRemainingColumn(),
            TextColumn("remaining"),
            TextColumn("{task.fields[tps]}"),
            console=console,
            speed_estimate_period=600,
        )
        self._task = self._progress.add_task("starting", total=total_seconds, tps="")
        self._done_before = 0.0
        self._seconds = 0

    def __enter__(self) -> LiveProgress:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # The bar has served its purpose; the lines of the finished runs stay.
        self._progress.update(self._task, visible=False)
        self._progress.stop()

    def step(self, text: str) -> None:
        """Show what is going on."""
        self._progress.update(self._task, description=text, tps="")

    def load_started(self, text: str, seconds: int) -> None:
        """Remember where the bar stands; progress within this load is added to it."""
        self._seconds = seconds
        self._progress.update(self._task, description=text, tps="")

    def load_progress(self, elapsed: float, tps: float | None) -> None:
        """Move the bar and show the latest TPS."""
        completed = self._done_before + min(elapsed, self._seconds)
        text = "" if tps is None else f"{tps:,.0f} TPS"
        self._progress.update(self._task, completed=completed, tps=text)

    def load_finished(self, text: str | None) -> None:
        """Complete this load's share of the bar and leave a line."""
        self._done_before += self._seconds
        self._progress.update(self._task, completed=self._done_before, tps="")
        if text is not None:
            self._console.print(text)

    def note(self, text: str) -> None:
        """Leave a line above the bar."""
        self._console.print(text)


@contextmanager
def live_progress(console: Console, total_seconds: int) -> Iterator[Observer]:
    """Show the progress of a run for the time of a ``with`` block."""
    with LiveProgress(console, total_seconds) as progress:
        yield progress
