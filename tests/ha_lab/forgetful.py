"""A node's disk that forgets at power-off what nobody has synced.

The files of a killed node are otherwise those that its kernel had in memory. Here the file system
of the power cuts (tests/power_loss) stands in front of them: it writes down what is written and
what is synced, and afterwards a state is built that a real disk may have had.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.ha_lab.node import Node
from tests.power_loss.disk import Crash, Disk
from tests.power_loss.journal import read_journal
from tests.power_loss.recording import build_recorder, recording

SECTORS = (512, 4096)


@dataclass
class ForgetfulDisk:
    """The disk of a node; what was there when it was mounted is durable."""

    node: Node
    mount: ExitStack

    @property
    def base(self) -> Path:
        """What was there before."""
        return self._beside("base")

    @property
    def journal(self) -> Path:
        """What was done since."""
        return self._beside("journal")

    def lose_cache(self, seed: str) -> Crash:
        """Take a node that is off to a state that its disk may have had."""
        status = self.node.home.stat()
        self.mount.close()
        disk = Disk(self.base)
        for record in read_journal(self.journal):
            disk.feed(record)
        random = Random(seed)
        found = disk.crash(random, random.choice(SECTORS), self.node.home)
        os.chown(self.node.home, status.st_uid, status.st_gid)
        self.node.home.chmod(status.st_mode & 0o7777)
        return found

    def _beside(self, name: str) -> Path:
        return self.node.home.with_name(name)


@contextmanager
def forgetful_disk(node: Node) -> Iterator[ForgetfulDisk]:
    """Put the file system in front of the files of a node that is off."""
    with ExitStack() as mount:
        disk = ForgetfulDisk(node, mount)
        for old in (disk.base, disk.journal):
            shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)
        program = build_recorder(node.lab.directory)
        mount.enter_context(recording(node.home, disk.base, disk.journal, program))
        status = disk.base.stat()
        os.chown(node.home, status.st_uid, status.st_gid)
        node.home.chmod(status.st_mode & 0o7777)
        yield disk
