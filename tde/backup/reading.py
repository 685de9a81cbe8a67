"""Reading the files of a backup, which somebody else may have put there."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Callable
from pathlib import Path

from tde.audit.unpacking import Readable, open_stored

_CHUNK = 1 << 20


class Reader:
    """Hashes files, and counts them."""

    def __init__(self, tell: Callable[[int], None] = lambda _: None) -> None:
        self._tell = tell
        self.files = 0
        self.bytes = 0

    def hash(self, path: Path) -> str:
        """Return the SHA-256 of a file."""
        with open_stored(path) as file:
            return self.hash_stream(file)

    def hash_stream(
        self, stream: Readable, algorithm: str = "sha256", most: int | None = None
    ) -> str:
        """Return the hash of what a stream still gives, as one file.

        Args:
            most: bytes that it may have; one that has more is not read to its end, and the answer
                is empty.
        """
        found = hashlib.new(algorithm)
        count = 0
        while chunk := stream.read(_CHUNK):
            found.update(chunk)
            count += len(chunk)
            self.bytes += len(chunk)
            self._tell(len(chunk))
            if most is not None and count > most:
                return ""
        self.files += 1
        return found.hexdigest()


def unusual(backup: Path, name: str) -> str | None:
    """Say why a file is none, or is reached by a link: then it can change after it was looked at.

    Only the links of tablespaces are pg_basebackup's own.
    """
    at = backup
    parts = Path(name).parts
    for number, part in enumerate(parts):
        at /= part
        try:
            mode = at.lstat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return "is missing"
        is_tablespace = number == 1 and parts[0] == "pg_tblspc"
        if stat.S_ISLNK(mode) and not is_tablespace:
            return f"is reached by a link: {at.relative_to(backup)}"
    return None if stat.S_ISREG(mode) else "is no ordinary file"
