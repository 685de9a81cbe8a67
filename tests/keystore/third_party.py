"""A provider of somebody else: a package that is installed, with an entry point of its own.

It has a directory in place of a key server, where tests say how it behaves: files called ``away``,
``refuse``, ``wrong``, ``hang``, ``die``, or ``look``: keep what the process has.
"""

from __future__ import annotations

import inspect
from pathlib import Path

from tde.keystore import Keystore, add_envelope
from tests import process_memory

MODULE = """
import hashlib
import os
import time
from pathlib import Path

from tde.errors import ProviderRefusedError, ProviderUnreachableError
from tde.keystore.crypto.secret import SecretBuffer
from tde.keystore.providers.wrapper import Parameter


class XorProvider:
    summary = "A key of tests"
    parameters = (Parameter("place", "a directory", required=True), Parameter("note", "anything"))
    timeout = 2.0

    def __init__(self, parameters):
        self.place = Path(parameters["place"])

    def _pad(self, context):
        (self.place / "asked").open("a").write(f"{os.getuid()}\\n")
        if (self.place / "away").exists():
            raise ProviderUnreachableError("it is away", remedy="Wait for it.")
        if (self.place / "look").exists():
            self._look()
        if (self.place / "refuse").exists():
            raise ProviderRefusedError("it will not", remedy="Ask for the right.")
        if (self.place / "hang").exists():
            time.sleep(600)
        if (self.place / "die").exists():
            os.kill(os.getpid(), 9)
        if (self.place / "wrong").exists():
            context += b"?"
        return hashlib.sha256(b"key of tests" + context).digest()

    def _look(self):
        (self.place / f"seen-files-{os.getpid()}").write_text(" ".join(os.listdir("/proc/self/fd")))
        with (self.place / f"seen-memory-{os.getpid()}").open("wb") as kept:
            kept.writelines(written_memory(os.getpid()))

    def wrap(self, kek, context):
        with kek.view as view:
            return bytes(a ^ b for a, b in zip(view, self._pad(context), strict=True))

    def unwrap(self, wrapped, context):
        kek = SecretBuffer(32)
        with kek.view as view:
            view[:] = bytes(a ^ b for a, b in zip(wrapped, self._pad(context), strict=True))
        return kek
"""


def install(directory: Path) -> None:
    """Make what an installer leaves in a directory of Python's path."""
    directory.mkdir(exist_ok=True)
    directory.chmod(0o755)
    module = f"{inspect.getsource(process_memory)}\n{MODULE}"
    (directory / "provider_of_tests.py").write_text(module)
    information = directory / "provider_of_tests-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: provider-of-tests\n")
    (information / "entry_points.txt").write_text(
        "[tde.keystore.providers]\nxor = provider_of_tests:XorProvider\n"
    )


class Xor:
    """The provider's place, and what it is told to do."""

    def __init__(self, place: Path) -> None:
        place.mkdir(exist_ok=True)
        place.chmod(0o777)
        self.place = place

    def behave(self, how: str = "") -> None:
        """Let it be ``away``, ``refuse`` and so on; by itself it works."""
        for name in ("away", "refuse", "wrong", "hang", "die", "look"):
            (self.place / name).unlink(missing_ok=True)
        if how:
            (self.place / how).touch()

    @property
    def asked(self) -> list[int]:
        """The users as which it was asked, each time."""
        file = self.place / "asked"
        return [int(line) for line in file.read_text().split()] if file.exists() else []

    def add(self, keystore: Keystore, name: str = "xor", **options: object) -> Path:
        """Let it open a keystore."""
        return add_envelope(keystore, name, "xor", {"place": str(self.place)}, **options)  # type: ignore[arg-type]
