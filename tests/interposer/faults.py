"""A disk that fails as planned: builds faults.c and writes its plan."""

from __future__ import annotations

import errno
import os
import struct
import subprocess
from dataclasses import dataclass
from enum import IntFlag
from pathlib import Path

from tests.interposer.harness import Harness

SOURCE = Path(__file__).with_name("faults.c")

# struct rule of faults.c: calls, error, at_most, skip, times, every, seen, hits, pattern.
_RULE = struct.Struct("=Ii6q200s")
_RULES = 8
_HITS_OFFSET = _RULE.size - 200 - 8
FOREVER = 2**62


class Call(IntFlag):
    """Kinds of system calls; each in all of its spellings."""

    READ = 1
    WRITE = 2
    SYNC = 4
    TRUNCATE = 8
    OPEN = 16
    ALLOCATE = 32
    UNALIGNED_READ = 64  # Into memory of which any part begins at no multiple of 64.


def build_faults(directory: Path) -> Path:
    """Compile the library and return its path."""
    target = directory / "libfaults.so"
    command = ["cc", "-Wall", "-Wextra", "-Werror", "-O1", "-fPIC", "-shared", str(SOURCE)]
    subprocess.run([*command, "-o", str(target), "-ldl"], check=True)
    target.chmod(0o755)
    return target


class Faults:
    """The plan of a disk's faults, for the processes started with :attr:`environment`.

    Args:
        library: what :func:`build_faults` built.
        plan: a file to make for the plan, which every process may open.
    """

    def __init__(self, library: Path, plan: Path) -> None:
        self.library = library
        self.plan = plan
        self._rules = 0
        self.clear()

    @property
    def environment(self) -> dict[str, str]:
        """Variables under which a program sees the faults."""
        return {"LD_PRELOAD": str(self.library), "TDE_TEST_FAULTS": str(self.plan)}

    def clear(self) -> None:
        """Let every call succeed from now on."""
        self._rules = 0
        # In place, because running processes have the file in their memory.
        descriptor = os.open(self.plan, os.O_RDWR | os.O_CREAT, 0o666)
        os.pwrite(descriptor, bytes(_RULE.size * _RULES), 0)
        os.fchmod(descriptor, 0o666)
        os.close(descriptor)

    def fail(
        self, call: Call, pattern: str, error: int, *, skip: int = 0, times: int = 1, every: int = 1
    ) -> None:
        """Let calls fail with this error, without any effect.

        Args:
            call: the kinds of calls.
            pattern: of the file's absolute name (for OPEN: of the name that is opened).
            error: an errno.
            skip: calls that pass before the first that fails.
            times: how many fail.
            every: 2 lets every second fail, and so on.
        """
        self._add(call, error, 0, skip, times, every, pattern)

    def shorten(
        self,
        call: Call,
        pattern: str,
        at_most: int,
        *,
        skip: int = 0,
        times: int = 1,
        every: int = 1,
    ) -> None:
        """Let reads or writes transfer at most so many bytes; see :meth:`fail`."""
        self._add(call, 0, at_most, skip, times, every, pattern)

    def _add(
        self, call: Call, error: int, at_most: int, skip: int, times: int, every: int, pattern: str
    ) -> None:
        name = os.fsencode(pattern)
        assert len(name) < 200
        rule = _RULE.pack(0, error, at_most, skip, times, every, 0, 0, name)
        with self.plan.open("r+b") as file:
            file.seek(self._rules * _RULE.size)
            file.write(rule)
            file.flush()
            # Last, because it arms the rule.
            file.seek(self._rules * _RULE.size)
            file.write(struct.pack("=I", call))
        self._rules += 1

    @property
    def hits(self) -> int:
        """How many calls have been struck since the last :meth:`clear`."""
        plan = self.plan.read_bytes()
        starts = range(_HITS_OFFSET, _RULE.size * _RULES, _RULE.size)
        return sum(int(struct.unpack_from("=q", plan, start)[0]) for start in starts)


@dataclass(frozen=True)
class FaultyHarness(Harness):
    """A data directory on a disk that fails as planned; the faults are behind the interposer."""

    faults: Faults

    def _run(
        self, command: list[str], environment: dict[str, str], fds: tuple[int, ...], check: bool
    ) -> subprocess.CompletedProcess[str]:
        mine = self.faults.environment
        preload = f"{environment.get('LD_PRELOAD', '')} {mine['LD_PRELOAD']}".strip()
        return super()._run(command, {**environment, **mine, "LD_PRELOAD": preload}, fds, check)


def name_of(error: int) -> str:
    """Return the symbolic name of an errno, for the names of tests."""
    return errno.errorcode[error]
