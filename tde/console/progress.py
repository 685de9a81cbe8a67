"""Progress of long work: a bar on a terminal, and numbers in a file for who asked for them.

The file is replaced twice a second, so whoever reads it finds all of one moment. Who runs a command
in a process of its own, without a terminal, can so show how far it is.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from rich.progress import Progress, ProgressColumn, TaskID

from tde.console.output import error_console

_EVERY_SECONDS = 0.5
_file: Path | None = None


def tell_file(path: Path) -> None:
    """Have commands of this process tell their progress in a file."""
    global _file
    _file = path


class CommandProgress(Progress):
    """The bar of a command, on standard error where that is a terminal."""

    def __init__(self, *columns: ProgressColumn | str) -> None:
        super().__init__(
            *columns,
            console=error_console,
            transient=True,
            disable=not error_console.is_terminal,
        )
        self._file = _file
        self._began = time.monotonic()
        self._written = 0.0

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """Change a task, as Progress does."""
        super().update(task_id, **changes)
        self._tell(task_id)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """Move a task on, as Progress does."""
        super().advance(task_id, advance)
        self._tell(task_id)

    def _tell(self, task_id: TaskID) -> None:
        now = time.monotonic()
        if self._file is None or now - self._written < _EVERY_SECONDS:
            return
        self._written = now
        task = self._tasks[task_id]
        document = {
            "description": task.description,
            "completed": task.completed,
            "total": task.total,
            "per_second": task.completed / max(now - self._began, 1e-3),
        }
        temporary = self._file.with_name(f"{self._file.name}.tmp")
        try:
            temporary.write_text(json.dumps(document), encoding="utf-8")
            temporary.replace(self._file)
        except OSError:
            self._file = None  # Whoever wanted it is gone; the work goes on.
