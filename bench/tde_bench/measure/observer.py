"""Events of a run, for whoever shows them."""

from __future__ import annotations

from typing import Protocol


class Observer(Protocol):
    """Receives the events of a run."""

    def step(self, text: str) -> None:
        """Something that is not measured begins, for example loading data."""

    def load_started(self, text: str, seconds: int) -> None:
        """A measured or warm-up run of this many seconds begins."""

    def load_progress(self, elapsed: float, tps: float | None) -> None:
        """The load has run for ``elapsed`` seconds, at ``tps`` in the last one if known."""

    def load_finished(self, text: str | None) -> None:
        """The load has ended; ``text`` says what was measured, None is not worth a line."""

    def note(self, text: str) -> None:
        """Something the reader should know now."""
