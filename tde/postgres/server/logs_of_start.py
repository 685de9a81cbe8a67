"""What a server has written to its logs in an attempt to start, for the message of a failure.

pg_ctl sends its output to one file. With ``logging_collector`` that soon says only that the output
is redirected, and the reason of a failure stands in a file of the collector's.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tde.errors import DataDirectoryError, OsUserError
from tde.postgres.server.cluster_files import read_cluster_file, read_end
from tde.postgres.server.file_user import files_as
from tde.postgres.server.os_user import OsUser, can_access, name_of_user

_LINES_SHOWN = 15
_BYTES_SHOWN = 64 << 10
# The collector writes what it still has after the end of the server, which is what we wait for.
_SECONDS_OF_COLLECTOR = 1.0


@dataclass(frozen=True)
class LogsOfStart:
    """The logs of a server that is about to start.

    Attributes:
        log: receives the server's output until its own logging takes over.
        ends: length in bytes of each log before the start.
    """

    log: Path
    data_directory: Path
    os_user: OsUser | None
    ends: Mapping[Path, int]

    @classmethod
    def before(cls, log: Path, data_directory: Path, os_user: OsUser | None) -> LogsOfStart:
        """Look how long the logs are before the start."""
        logs = [log, *_collected(data_directory)]
        return cls(log, data_directory, os_user, {path: _size_of(path, os_user) for path in logs})

    def describe(self, message: str, output: str) -> str:
        """Return the message with what pg_ctl printed and what the server has logged since."""
        parts = [message]
        if output.strip():
            parts.append(output.strip())
        for path, lines in self._new_lines():
            parts.append(f"Last lines of {path}:")
            parts.extend(f"  {line}" for line in lines[-_LINES_SHOWN:])
        return "\n".join(parts)

    def remedy(self) -> str:
        """Return where the whole log is, or why there is none."""
        collected = [path for path, _ in self._new_lines() if path != self.log]
        if collected:
            return f"The whole log is in {collected[0]}."
        place = self.log if can_access(self.os_user, self.log, "-e") else self.log.parent
        if can_access(self.os_user, place, "-w"):
            return f"The whole log is in {self.log}."
        name = name_of_user(self.os_user)
        return (
            f"{name}, who runs the server, cannot write the log {self.log}. Make its directory for "
            f"{name}, or name another log with --log."
        )

    def _new_lines(self) -> Iterator[tuple[Path, list[str]]]:
        own = self._new_lines_of(self.log)
        if own:
            yield self.log, own
        logs = _collected(self.data_directory)
        deadline = time.monotonic() + _SECONDS_OF_COLLECTOR
        while logs:
            found = [(path, lines) for path in logs if (lines := self._new_lines_of(path))]
            if found:
                yield found[0]  # In another format the others say the same.
                return
            if time.monotonic() >= deadline:
                return
            time.sleep(0.05)

    def _new_lines_of(self, path: Path) -> list[str]:
        try:
            with files_as(self.os_user):
                content = read_end(path, self.ends.get(path, 0), _BYTES_SHOWN)
        except (OSError, OsUserError):
            return []
        return content.decode(errors="surrogateescape").splitlines()


def _collected(data_directory: Path) -> list[Path]:
    """Return the files that the collector writes, or has written last; text before other formats.

    Each line of current_logfiles is a format and a path.
    """
    try:
        content = read_cluster_file(data_directory, "current_logfiles")
    except (OSError, DataDirectoryError):
        return []
    lines = sorted(os.fsdecode(content).splitlines(), key=lambda line: line[:7] != "stderr ")
    return [data_directory / name for line in lines if (name := line.partition(" ")[2])]


def _size_of(path: Path, os_user: OsUser | None) -> int:
    try:
        with files_as(os_user):
            return path.stat().st_size
    except (OSError, OsUserError):
        return 0
