"""CPU accounting of a process tree, against what the processes themselves report."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import psutil
import pytest
from tde_bench.measure.cpu_time import tree_cpu_seconds

# A parent with a child that ends and is waited for, a child that ends and stays a zombie, and a
# live child with a grandchild that has ended. Each burns 0.2 s of CPU (not of the clock) and
# reports what the kernel charged it. On the first line of input the parent waits for them all.
TREE = """
import json, os, sys, time

def burn():
    while time.process_time() < 0.2:
        pass
    return time.process_time()

def child(body, stay=False):
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        os.write(writer, json.dumps(body()).encode())
        os.close(writer)
        if stay:
            time.sleep(600)
        os._exit(0)
    os.close(writer)
    burnt = json.loads(os.read(reader, 100))
    os.close(reader)
    return pid, burnt

def branch():
    pid, burnt = child(burn)
    os.waitpid(pid, 0)
    return burnt + burn()

reaped, first = child(burn)
os.waitpid(reaped, 0)
zombie, second = child(burn)
live, third = child(branch, stay=True)
print(first + second + third + burn(), flush=True)
sys.stdin.readline()
os.waitpid(zombie, 0)
os.kill(live, 9)
os.waitpid(live, 0)
print(flush=True)
sys.stdin.readline()
"""


TICK = 1 / os.sysconf("SC_CLK_TCK")
# Two counters per process and two sums per parent are each rounded down to a tick.
ROUNDING = 14 * TICK


@dataclass
class Tree:
    """A process tree that stands still after burning a known CPU time in five processes."""

    process: subprocess.Popen[str]
    burnt: float

    def end_children(self) -> None:
        """Let the parent end and wait for all its children."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.process.stdout.readline()


@pytest.fixture
def tree() -> Iterator[Tree]:
    with subprocess.Popen(
        [sys.executable, "-c", TREE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield Tree(process, float(process.stdout.readline()))
        for child in psutil.Process(process.pid).children():
            child.kill()
        process.kill()


def test_live_reaped_and_zombie_processes_all_count_once(tree: Tree) -> None:
    counted = tree_cpu_seconds(tree.process.pid)
    assert tree.burnt >= 1.0
    # Counting one of the five processes twice, or not at all, would be off by 0.2 s.
    assert counted == pytest.approx(tree.burnt, abs=ROUNDING)


def test_the_sum_stays_when_processes_end(tree: Tree) -> None:
    before = tree_cpu_seconds(tree.process.pid)
    tree.end_children()
    assert psutil.Process(tree.process.pid).children() == []
    assert tree_cpu_seconds(tree.process.pid) == pytest.approx(before, abs=ROUNDING)


def test_a_process_that_is_gone_is_reported() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    with pytest.raises(psutil.NoSuchProcess):
        tree_cpu_seconds(process.pid)
