"""Reading strace's output: which calls a server made on which of its files, class by class."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tde import _core
from tde_bench.io.trace import EXTENSION, READ, WRITE, Call, Stream

# The addresses that are read into are needed, and the bytes that are written: new pages are zeros.
RAW = "pread64"
_POSITIONED = ("pread64", "pwrite64", "preadv", "pwritev")
CALLS = ",".join(
    (
        *(*_POSITIONED, "openat", "close", "dup", "dup2", "lseek"),
        *("fsync", "fdatasync", "sync_file_range", "fadvise64", "fallocate", "ftruncate"),
    )
)
# Of each class as many as this are kept: what a page costs does not depend on how many there were.
_MOST_CALLS = 12_000
_MOST_UNITS = 2048

_PLAIN_OPERATIONS = {
    "fsync": "s",
    "fdatasync": "d",
    "sync_file_range": "f",
    "fadvise64": "a",
    "fallocate": "A",
    "ftruncate": "t",
}
_LINE = re.compile(r"^(\d+\.\d+) (\w+)\((.*)\)\s+= (-?\w+)")
_OPEN = re.compile(r'^AT_FDCWD, "((?:\\x[0-9a-f]{2})*)"(?:\.\.\.)?, ([A-Z_|]+)')
_VECTOR = re.compile(r"\], (\d+), (\d+)")
_ZEROS = re.compile(r'"(?:\\x00){24}"')


@dataclass
class _Event:
    when: float
    path: str
    operation: str
    offset: int = 0
    length: int = 0
    parts: int = 1
    skew: int = 0
    zeros: bool = False


@dataclass
class Recording:
    """All calls of one server.

    Args:
        output: the directory of strace's files, one per process.
        data: the data directory; calls on other files are left out.
    """

    output: Path
    data: Path
    _events: list[_Event] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        for file in sorted(self.output.iterdir()):
            self._events += _Process(self.data).read(file)
        self._events.sort(key=lambda event: event.when)

    def streams(self, sizes: dict[str, int], start: float, end: float) -> list[Stream]:
        """Return the streams of the calls between two times.

        Args:
            sizes: the length of each file at the first of them.
        """
        made: dict[str, _Builder] = {}
        extended = dict(sizes)
        for event in self._events:
            name = _class_of(event) if start <= event.when < end else None
            if name is None:
                continue
            if name == EXTENSION:
                end_of = event.offset + event.length
                extended[event.path] = max(extended.get(event.path, 0), end_of)
            known = extended if name == "relation-write" else sizes
            made.setdefault(name, _Builder(Stream(name), known)).add(event)
        return [builder.finished() for _, builder in sorted(made.items()) if builder.has_calls]


def _class_of(event: _Event) -> str | None:
    """Return the class of a call; None for files that are plain, and calls that cost nothing."""
    kind = _core.parse_path(event.path)[0]
    if kind == _core.CLASS_PLAIN:
        return None
    if event.operation == "o":
        return "open"
    if event.path.startswith("pg_wal/xlogtemp."):
        return "wal-write" if event.operation != READ else None
    if kind in (_core.CLASS_RELATION, _core.CLASS_TEMP_RELATION) and (
        event.zeros or event.operation in ("A", "t")
    ):
        return EXTENSION
    subject = {_core.CLASS_WAL: "wal", _core.CLASS_EPHEMERAL: "temporary"}.get(kind, "relation")
    return f"{subject}-{'read' if event.operation in (READ, 'e', 'a') else 'write'}"


@dataclass
class _Builder:
    """Makes a stream, until it has enough."""

    stream: Stream
    sizes: dict[str, int]
    _numbers: dict[str, int] = field(default_factory=dict)
    _paths: list[str] = field(default_factory=list)
    _units: int = 0

    @property
    def has_calls(self) -> bool:
        return bool(self.stream.calls)

    def finished(self) -> Stream:
        """Return the stream, in which the pages that it writes are there as far as they were."""
        self.stream.files = [(path, self.sizes.get(path, 0)) for path in self._paths]
        return self.stream

    def add(self, event: _Event) -> None:
        if len(self.stream.calls) >= _MOST_CALLS or self._units >= _MOST_UNITS:
            return
        number = self._numbers.get(event.path)
        if number is None:
            number = self._numbers[event.path] = len(self._numbers)
            self._paths.append(event.path)
        call = Call(
            *(event.operation, number, event.offset, event.length),
            *(event.parts, event.skew, event.zeros),
        )
        self.stream.calls.append(call)
        self._units += call.units


class _Process:
    """The calls of one process; its descriptors are followed from one to the next.

    What it inherited from its parent is none of the files that matter: PostgreSQL opens those anew.
    """

    def __init__(self, data: Path) -> None:
        self._prefix = f"{data}/"
        self._open: dict[int, str] = {}

    def read(self, file: Path) -> Iterator[_Event]:
        with file.open(encoding="ascii", errors="replace") as lines:
            for line in lines:
                match = _LINE.match(line)
                if match is not None and not match[4].startswith("-"):
                    event = self._event(float(match[1]), match[2], match[3], match[4])
                    if event is not None:
                        yield event

    def _event(self, when: float, call: str, arguments: str, result: str) -> _Event | None:
        if call == "openat":
            return self._opened(when, arguments, int(result))
        fd = int(arguments.split(",", 1)[0], 0)
        if call in ("dup", "dup2"):
            if fd in self._open:
                self._open[int(result)] = self._open[fd]
            return None
        path = self._open.get(fd)
        if call == "close":
            self._open.pop(fd, None)
            return None
        if path is None:
            return None
        if call in _POSITIONED:
            return _transfer(when, path, call, arguments, int(result, 0))
        if call == "lseek":
            return _Event(when, path, "e") if arguments.endswith("SEEK_END") else None
        return _plain(when, path, call, arguments)

    def _opened(self, when: float, arguments: str, fd: int) -> _Event | None:
        match = _OPEN.match(arguments)
        if match is None:
            return None
        path = bytes.fromhex(match[1].replace("\\x", "")).decode(errors="replace")
        # A server works in its data directory; every other path is another program's.
        path = path.removeprefix("./").removeprefix(self._prefix)
        self._open[fd] = path
        made_anew = "O_CREAT" in match[2] or "O_DIRECTORY" in match[2]
        return None if made_anew else _Event(when, path, "o")


def _transfer(when: float, path: str, call: str, arguments: str, length: int) -> _Event:
    operation = READ if call in ("pread64", "preadv") else WRITE
    zeros = operation == WRITE and _ZEROS.search(arguments) is not None
    if call in ("preadv", "pwritev"):
        match = _VECTOR.search(arguments)
        parts, offset = (1, 0) if match is None else (int(match[1]), int(match[2]))
        equal = length % parts == 0
        return _Event(when, path, operation, offset, length, parts if equal else 1, 0, zeros)
    words = arguments.split(", ")
    skew = int(words[1], 16) % 64 if operation == READ else 0
    return _Event(when, path, operation, int(words[-1], 0), length, 1, skew, zeros)


def _plain(when: float, path: str, call: str, arguments: str) -> _Event:
    words = arguments.split(", ")
    if call == "ftruncate":
        return _Event(when, path, "t", length=int(words[1]))
    # fallocate's mode comes before the offset.
    numbers = words[2:4] if call == "fallocate" else words[1:3]
    offset, length = (int(n) for n in numbers) if len(numbers) == 2 else (0, 0)
    return _Event(when, path, _PLAIN_OPERATIONS[call], offset, length)
