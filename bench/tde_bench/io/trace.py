"""The calls that servers made, as they were recorded: a stream for each class of files.

Where they come from is in :mod:`tde_bench.io.record`; c_ext/replay makes them again.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from tde.page.codec import PAGE_SIZE
from tde_bench.errors import BenchError

SCHEMA = {"name": "tde-bench/io-trace", "version": 1}
SUFFIX = ".json.gz"

READ = "r"
WRITE = "w"

# New pages are zeros on the disk too, so nothing is encrypted.
EXTENSION = "relation-extend"

# The classes of files, each in the direction that is measured.
CLASSES = {
    "relation-read": "relation reads",
    "relation-write": "relation writes",
    EXTENSION: "relation extension",
    "wal-write": "WAL writes",
    "wal-read": "WAL reads",
    "temporary-write": "temp writes",
    "temporary-read": "temp reads",
    "open": "opens",
}


@dataclass(frozen=True)
class Call:
    """One system call.

    Attributes:
        operation: a letter of c_ext/replay/stream.h.
        file: its number in the stream.
        offset, length: in bytes.
        parts: of a vector; 1 without one.
        skew: how far the memory lay behind a multiple of 64 bytes.
        zeros: whether a new page or segment was written.
    """

    operation: str
    file: int
    offset: int
    length: int
    parts: int = 1
    skew: int = 0
    zeros: bool = False

    @property
    def units(self) -> int:
        """How many pages the cipher has to work on, which a part of a page needs as well."""
        if self.operation not in (READ, WRITE) or self.zeros or self.length == 0:
            return 0
        first, last = self.offset // PAGE_SIZE, (self.offset + self.length - 1) // PAGE_SIZE
        return last - first + 1


@dataclass
class Stream:
    """The calls of one class, in their order.

    Attributes:
        name: a key of :data:`CLASSES`.
        files: path in the data directory, and length before the first call.
    """

    name: str
    files: list[tuple[str, int]] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)

    @property
    def units(self) -> int:
        """The pages that go through the cipher."""
        return sum(call.units for call in self.calls)

    @property
    def decrypts(self) -> bool:
        """Whether they are decrypted."""
        return self.name.endswith("-read")

    def lines(self) -> Iterator[str]:
        """Return the stream as c_ext/replay/stream.h wants it."""
        for path, start in self.files:
            yield f"file {path} {start}"
        for call in self.calls:
            yield (
                f"call {call.operation} {call.file} {call.offset} {call.length} "
                f"{call.parts} {call.skew} {int(call.zeros)}"
            )


@dataclass
class Trace:
    """What one server did in one workload.

    Attributes:
        server: its version.
        workload: a word.
    """

    server: str
    workload: str
    streams: list[Stream]

    @property
    def name(self) -> str:
        """What raw results call it."""
        return f"{self.server.split('.')[0]}-{self.workload}"

    def write(self, directory: Path) -> Path:
        """Write the trace into a directory, the same bytes for the same trace."""
        document = {"schema": SCHEMA, "server": self.server, "workload": self.workload}
        streams = [
            {
                "name": stream.name,
                "files": stream.files,
                "calls": [list(asdict(call).values()) for call in stream.calls],
            }
            for stream in self.streams
        ]
        content = json.dumps({**document, "streams": streams}, separators=(",", ":"))
        path = directory / f"{self.name}{SUFFIX}"
        path.write_bytes(gzip.compress(content.encode(), mtime=0))
        return path


def read_trace(path: Path) -> Trace:
    """Read one trace.

    Raises:
        BenchError: the file is no trace, or one of a later version.
    """
    try:
        document: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))
        if document["schema"] != SCHEMA:
            raise ValueError(f"its schema is {document['schema']}")
        streams = [_stream(each) for each in document["streams"]]
        return Trace(document["server"], document["workload"], streams)
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise BenchError(f"{path} is no trace that this tde-bench can replay: {error}") from error


def _stream(document: dict[str, Any]) -> Stream:
    if document["name"] not in CLASSES:
        raise ValueError(f"there is no class {document['name']}")
    files = [(str(path), int(start)) for path, start in document["files"]]
    calls = [Call(*values) for values in document["calls"]]
    return Stream(document["name"], files, calls)


def own_traces() -> list[Trace]:
    """Return the traces that the package brings."""
    directory = resources.files("tde_bench.io").joinpath("traces")
    with resources.as_file(directory) as path:
        return list(read_traces(sorted(path.glob(f"*{SUFFIX}"))))


def read_traces(paths: Iterable[Path]) -> Iterator[Trace]:
    """Read several."""
    for path in paths:
        yield read_trace(path)
