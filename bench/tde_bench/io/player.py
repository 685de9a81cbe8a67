"""One process that makes recorded calls again, with the interposer or without."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tde.algorithms import Algorithm
from tde.closing import Closing
from tde.keystore import KeyOwner, Keystore
from tde.page.libcrypto import SYSTEM, VARIABLE
from tde.postgres.cluster.keymap import KEYMAP_FILE, map_key, pack_map
from tde.postgres.server.interposer import find_interposer
from tde_bench.io.trace import Stream
from tde_bench.measure.replay_process import ReplayProcess, replay_program

_MEMORY = Path("/dev/shm")
_SPACE = 1 << 30
# The tablespaces that initdb makes.
_BUILT_IN = (1663, 1664)


@contextmanager
def player_directory(parent: Path | None = None) -> Iterator[Path]:
    """Make a directory for players, and remove it at the end.

    Without a parent it is in memory where there is room: without a disk, what is left of a call is
    what it costs.
    """
    if parent is None and os.access(_MEMORY, os.W_OK):
        parent = _MEMORY if shutil.disk_usage(_MEMORY).free > _SPACE else None
    with tempfile.TemporaryDirectory(prefix="tde-bench-", dir=parent) as path:
        yield Path(path)


class Player(Closing):
    """One process, in a directory that looks like a server's.

    Args:
        folder: an empty directory of its own.
        algorithm: of its files; None to work without the interposer.
        libcrypto: what encrypts, None for the system's library.
        environment: variables beyond those of this process.
    """

    def __init__(
        self,
        folder: Path,
        algorithm: Algorithm | None,
        libcrypto: Path | None,
        environment: Mapping[str, str],
    ) -> None:
        self._data = folder / "data"
        self._data.mkdir(parents=True)
        # The interposer knows a server by the name of its program.
        program = folder / "postgres"
        shutil.copyfile(replay_program(), program)
        program.chmod(0o700)
        variables = {**os.environ, **environment, VARIABLE: str(libcrypto or SYSTEM)}
        descriptors: Sequence[int] = ()
        with ExitStack() as keys:
            if algorithm is not None:
                keystore = keys.enter_context(_make_keystore(folder / "keystore", algorithm))
                content = pack_map([], keystore.uuid, map_key(keystore))
                (self._data / KEYMAP_FILE).write_bytes(content)
                handed = keys.enter_context(keystore.hand_over())
                variables |= {**handed.environment, "LD_PRELOAD": str(find_interposer())}
                descriptors = (handed.fd,)
            self._process = ReplayProcess(
                libcrypto,
                program=program,
                cwd=self._data,
                env=variables,
                pass_fds=descriptors,
            )
            with ExitStack() as failing:
                failing.enter_context(self._process)
                # The keys have been read when it answers.
                self.cipher(algorithm or Algorithm.AES256, decrypts=False, pages=1, span=1)
                self._stack = failing.pop_all()

    def load(self, stream: Stream, name: str) -> int:
        """Make the files of a stream, and return its number."""
        # Of a path the last parts say what the file is. Each stream has files of its own, because
        # what one has made longer another would find so.
        own = Stream(stream.name, [(f"{name}/{path}", at) for path, at in stream.files])
        own.calls = stream.calls
        for path, _ in own.files:
            (self._data / path).parent.mkdir(parents=True, exist_ok=True)
        text = self._data.parent / name
        text.write_text("\n".join(own.lines()) + "\n", encoding="utf-8")
        return self._process.ask(f"load {text}")

    def run(self, number: int) -> int:
        """Make all calls of a stream; return the nanoseconds that they took."""
        return self._process.ask(f"run {number}")

    def run_bare(self, number: int, algorithm: Algorithm) -> int:
        """Make all calls with the cipher in front of each, and nothing else of encryption."""
        return self._process.ask(f"bare {number} {algorithm.value}")

    def cipher(self, algorithm: Algorithm, *, decrypts: bool, pages: int, span: int) -> int:
        """Return the nanoseconds of the cipher alone for so many pages, ``span`` in turn."""
        return self._process.ask(f"cipher {algorithm.value} {int(decrypts)} {pages} {span}")

    def close(self) -> None:
        """End the process."""
        self._stack.close()


def _make_keystore(path: Path, algorithm: Algorithm) -> Keystore:
    keystore = Keystore.create(path, os.urandom(32).hex().encode())
    keystore.create_key(KeyOwner.wal(), algorithm)
    for oid in _BUILT_IN:
        keystore.create_key(KeyOwner.tablespace(oid), algorithm)
    return keystore
