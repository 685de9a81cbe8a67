"""The files in which the kernel describes the machine, and processes on it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tde.machine.process_files import read_process_file

_ROOT = Path("/")


@dataclass(frozen=True)
class MachineFiles:
    """Reads ``/proc``, ``/sys`` and ``/dev``, or copies of them below another directory.

    Every method raises :class:`OSError` when a file is missing or may not be read.
    """

    root: Path = _ROOT

    def text(self, path: str) -> str:
        """Return the content of a file."""
        return self._place(path).read_text(encoding="utf-8", errors="replace")

    def exists(self, path: str) -> bool:
        """Tell whether there is such a file or directory."""
        return os.path.lexists(self._place(path))

    def names(self, directory: str) -> list[str]:
        """Return the names in a directory, sorted; a missing directory has none."""
        try:
            return sorted(entry.name for entry in self._place(directory).iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []

    def link(self, path: str) -> Path | None:
        """Return where a symbolic link points, as it is written; ``None`` for no link."""
        place = self._place(path)
        return place.readlink() if place.is_symlink() else None

    def process_text(self, process: int | str, name: str) -> str:
        """Return a file of ``/proc/<process>``; a server's are read as its user if need be."""
        if self.root == _ROOT and (process, name) == ("self", "environ"):
            return "".join(f"{key}={value}\0" for key, value in os.environ.items())
        if self.root != _ROOT or isinstance(process, str):
            return self.text(f"/proc/{process}/{name}")
        return read_process_file(process, name).decode(errors="replace")

    def _place(self, path: str) -> Path:
        return self.root / path.lstrip("/")


def read_limit(machine: MachineFiles, process: int | str, name: str) -> tuple[float, float]:
    """Return the soft and the hard limit of a process, in the kernel's unit.

    Args:
        process: a process id, or ``self``.
        name: as in ``/proc/<pid>/limits``, for example ``Max core file size``.

    Raises:
        OSError: they may not be read, or the kernel does not have this limit.
    """
    for line in machine.process_text(process, "limits").splitlines():
        if line.startswith(name):
            soft, hard = line[len(name) :].split()[:2]
            return _limit(soft), _limit(hard)
    raise OSError(f'the limits of process {process} have no "{name}"')


def _limit(text: str) -> float:
    return float("inf") if text == "unlimited" else float(text)
