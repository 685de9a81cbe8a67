"""CPU seconds of a server's whole process tree.

PostgreSQL is a postmaster and one process per connection and per background task. Processes
come and go during a run, so neither the live processes nor the finished ones alone are enough:

* a live process shows its own user and system time;
* when a process ends and its parent waits for it, the kernel adds the time of the process, and
  of everything that the process itself had waited for, to the parent's ``children_*`` counters.
  A process that ended and is not yet waited for (a zombie) still shows its own time.

The sum over all live processes of all four counters therefore counts every process once and
only grows. (It would lose a grandchild whose parent died first, because init inherits that one;
PostgreSQL's postmaster starts and waits for all of its processes itself.) The difference of two
sums is the CPU time between them. The kernel rounds these counters down to a clock tick, usually
10 ms each, which adds up over ten processes; but for live processes the scheduler's own count
(``schedstat``) is in nanoseconds, so that only what was waited for is rounded, once.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import NamedTuple

import psutil

_ATTEMPTS = 50
_PAUSE_SECONDS = 0.01


class _Times(NamedTuple):
    own: float
    reaped: float


# A process is known by its number and its start time, because numbers are used again.
_Tree = dict[tuple[int, float], _Times]


def _read_tree(root: psutil.Process) -> _Tree:
    """Read the counters of ``root`` and all its live descendants."""
    tree: _Tree = {}
    for process in [root, *root.children(recursive=True)]:
        times = process.cpu_times()
        tree[process.pid, process.create_time()] = _Times(
            # Each may miss something: the first the rest of a tick, the second what threads used
            # that have ended. Neither ever shows too much.
            own=max(times.user + times.system, _scheduled_seconds(process.pid)),
            reaped=times.children_user + times.children_system,
        )
    return tree


def _scheduled_seconds(pid: int) -> float:
    """Return the CPU seconds of a process's live threads; 0 where the kernel does not tell."""
    nanoseconds = 0
    with contextlib.suppress(OSError, ValueError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            nanoseconds += int((task / "schedstat").read_text(encoding="ascii").split()[0])
    return nanoseconds / 1e9


def _same_membership(first: _Tree, second: _Tree) -> bool:
    """Tell whether nothing ended between two readings.

    A process that ends while the tree is read is counted twice or not at all, depending on who
    is read first. It then either disappears from the tree or appears in a ``reaped`` counter.
    """
    return first.keys() == second.keys() and all(
        first[key].reaped == second[key].reaped for key in first
    )


def tree_cpu_seconds(pid: int) -> float:
    """Return the CPU seconds that process ``pid`` and all its descendants have used so far.

    Reads the tree until two readings agree about who has ended. If processes end faster than
    that, the last reading counts; it is then wrong by at most the time of what just ended.

    Raises:
        psutil.NoSuchProcess: when ``pid`` itself has ended.
    """
    root = psutil.Process(pid)
    previous: _Tree = {}
    current: _Tree = {}
    for _ in range(_ATTEMPTS):
        try:
            current = _read_tree(root)
        except psutil.NoSuchProcess as error:
            if error.pid == pid:
                raise
            continue
        if previous and _same_membership(previous, current):
            break
        previous = current
        time.sleep(_PAUSE_SECONDS)
    return sum(times.own + times.reaped for times in current.values())
