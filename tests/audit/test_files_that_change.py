"""Files that a server changes while the auditor reads them are no alarm, and damage is one."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.audit.prepared import PAGE, store, write_at


def at_first_read(monkeypatch, path: Path, action: Callable[[Sequence[memoryview]], None]) -> None:
    """Do something just after the auditor has read from a file for the first time.

    A race with the server, made certain: torn reads are rare on today's file systems.
    """
    actions = [action]
    really_read = os.preadv

    def read(descriptor: int, buffers: Sequence[memoryview], offset: int) -> int:
        count = really_read(descriptor, buffers, offset)
        if actions and Path(f"/proc/self/fd/{descriptor}").readlink() == path:
            actions.pop()(buffers)
        return count

    monkeypatch.setattr(os, "preadv", read)


def test_a_torn_read_is_no_alarm(copy, monkeypatch):
    def tear(buffers: Sequence[memoryview]) -> None:
        buffers[0][20 * PAGE + 4096 : 21 * PAGE] = os.urandom(4096)

    at_first_read(monkeypatch, copy.root / copy.heap, tear)
    report = copy.audit()
    assert report.clean, report.findings
    assert report == replace(copy.audit(), seconds=report.seconds)


def test_a_file_that_becomes_another_while_it_is_read_is_no_alarm(copy, monkeypatch):
    path = copy.root / copy.heap
    store(path, path.read_bytes())

    def recycle(buffers: Sequence[memoryview]) -> None:
        buffers[0][: 4 * PAGE] = os.urandom(4 * PAGE)  # What was read came too late.
        path.rename(path.with_name("99999"))
        path.with_name("99999").write_bytes(os.urandom(8 * PAGE))

    at_first_read(monkeypatch, path, recycle)
    report = copy.audit()
    assert report.clean, report.findings


def test_a_file_that_is_truncated_while_it_is_read_is_no_alarm(copy, monkeypatch):
    path = copy.root / copy.heap
    store(path, path.read_bytes())

    def truncate(buffers: Sequence[memoryview]) -> None:
        buffers[0][60 * PAGE : 61 * PAGE] = os.urandom(PAGE)
        os.truncate(path, 10 * PAGE)

    at_first_read(monkeypatch, path, truncate)
    report = copy.audit()
    assert report.clean, report.findings


def test_what_stays_wrong_is_an_alarm(copy, monkeypatch):
    path = copy.root / copy.heap

    def damage(buffers: Sequence[memoryview]) -> None:
        buffers[0][20 * PAGE : 21 * PAGE] = os.urandom(PAGE)
        write_at(path, 20 * PAGE, os.urandom(PAGE))

    at_first_read(monkeypatch, path, damage)
    # The file is another one now, so it is read in full by the next audit only.
    assert copy.audit().clean
    assert [finding.block for finding in copy.audit().findings] == [20]


def test_reading_stops_at_once_when_interrupted(copy):
    class Impatient:
        def found(self, total: int) -> None:
            self.total = total

        def read(self, count: int, name: str) -> None:
            raise KeyboardInterrupt

    observer = Impatient()
    with pytest.raises(KeyboardInterrupt):
        copy.audit(observer=observer, jobs=2)
    assert observer.total > 1 << 20
