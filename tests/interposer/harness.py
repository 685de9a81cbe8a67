"""Runs file-operation scripts with and without the interposer (see driver.c)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tde import Algorithm
from tde.keystore import KeyOwner, Keystore
from tde.postgres.cluster.keymap import KEYMAP_FILE, KeySource, MapEntry, map_key, pack_map
from tde.postgres.server.interposer import find_interposer
from tests.keystore.cheap_passphrase import CHEAP_KDF, PASSPHRASE

DRIVER_SOURCES = sorted(Path(__file__).parent.glob("driver*.c"))

_FORTIFY = ("-O2", "-D_FORTIFY_SOURCE=2")
_LARGE_FILES = ("-D_FILE_OFFSET_BITS=64",)

# How one script is run, and how its calls are spelled; each is one build of the driver.
VARIANTS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "fortify": _FORTIFY,
    "large-files": _LARGE_FILES,
    "fortify-large-files": (*_FORTIFY, *_LARGE_FILES),
    "constructor": ("-DIN_CONSTRUCTOR",),
    "child": ("-DIN_CHILD",),
    "thread": ("-DIN_THREAD",),
}
# How several scripts are run at once.
PARALLEL_VARIANTS: dict[str, tuple[str, ...]] = {
    "threads": ("-DIN_THREADS",),
    "processes": ("-DIN_PROCESSES",),
    "steps": ("-DIN_STEPS",),
}

# In a run under a sanitizer (tests/sanitize.py) the driver, unlike Python, must not leak.
UNDER_ASAN = "libasan" in os.environ.get("LD_PRELOAD", "")
SANITIZED = {"ASAN_OPTIONS": "detect_leaks=1"} if UNDER_ASAN else {}

# Tablespaces of the test keystore beside pg_default (AES-256) and pg_global (AES-128).
AES128_TABLESPACE = 16400
PLAINTEXT_TABLESPACE = 16401
RECORDED = (AES128_TABLESPACE, PLAINTEXT_TABLESPACE)

RELATION = "base/5/16384"
SEGMENT = "pg_wal/000000010000000000000001"
# A name that the list of plain files has (c_ext/format/plain.c).
PLAIN = "postgresql.conf"
TEMPORARY = "base/pgsql_tmp/pgsql_tmp77.0"
DIRECTORIES = (
    "base/5",
    "base/pgsql_tmp",
    "global",
    "pg_wal",
    f"pg_tblspc/{AES128_TABLESPACE}/PG_15_202209061/5",
    f"pg_tblspc/{PLAINTEXT_TABLESPACE}/PG_15_202209061/5",
    "pg_tblspc/16402/PG_15_202209061/5",
)


def preload() -> str:
    """Return the interposer for LD_PRELOAD, behind what the tests themselves run under."""
    return " ".join([*os.environ.get("LD_PRELOAD", "").split(), str(find_interposer())])


def make_data_directory(path: Path) -> Path:
    """Make an empty tree with the directories that PostgreSQL would have."""
    for directory in DIRECTORIES:
        (path / directory).mkdir(parents=True)
    return path


def make_keystore(path: Path) -> Keystore:
    """Make an open keystore with cheap key derivation and a key of each kind."""
    keystore = Keystore.create(path, PASSPHRASE, kdf=CHEAP_KDF)
    keystore.create_key(KeyOwner.wal(), Algorithm.AES256)
    keystore.create_key(KeyOwner.tablespace(1663), Algorithm.AES256)
    keystore.create_key(KeyOwner.tablespace(1664), Algorithm.AES128)
    keystore.create_key(KeyOwner.tablespace(AES128_TABLESPACE), Algorithm.AES128)
    keystore.create_plaintext_entry(PLAINTEXT_TABLESPACE)
    return keystore


def build_driver(directory: Path, variant: str, program: str = "postgres") -> Path:
    """Compile the driver under the name of the PostgreSQL program that it plays."""
    target = directory / variant / program
    target.parent.mkdir(parents=True, exist_ok=True)
    # A server exports its symbols to extensions, and so to the interposer.
    command = [
        "cc",
        "-Wall",
        "-pthread",
        "-rdynamic",
        *(VARIANTS | PARALLEL_VARIANTS)[variant],
        *map(str, DRIVER_SOURCES),
        "-o",
        str(target),
    ]
    subprocess.run(command, check=True)
    return target


def build_program(
    directory: Path, source: str, *core: str, name: str = "", options: Sequence[str] = ()
) -> Path:
    """Compile one C program of this folder with files of c_ext."""
    here = Path(__file__).parent
    c_ext = here.parents[1] / "c_ext"
    target = directory / (name or Path(source).stem)
    sources = [here / source, *(c_ext / file for file in core)]
    usual = ["-Wall", "-D_GNU_SOURCE", "-pthread", f"-I{c_ext}"]
    subprocess.run(["cc", *usual, *sources, *options, "-o", target], check=True)
    return target


def valgrind() -> tuple[str, ...]:
    """Return a command prefix that fails with 99 on an invalid access or lost memory."""
    return (
        *("valgrind", "--leak-check=full", "--error-exitcode=99", "--num-callers=30"),
        *("--errors-for-leak-kinds=definite,indirect,possible", "--track-fds=no"),
    )


@dataclass(frozen=True)
class Harness:
    """One data directory and a way to run scripts in it.

    Attributes:
        data: the data directory; scripts name files relative to it.
        keystore: the keystore handed to the driver, or ``None`` to run without interposer.
    """

    data: Path
    keystore: Keystore | None

    def run(self, driver: Path, script: str, *, check: bool = True) -> str:
        """Run one script and return what it printed."""
        path = self.data / "script.txt"
        path.write_text(script)
        return self.execute(driver, [str(path)], check=check).stdout

    def execute(
        self,
        driver: Path,
        arguments: Sequence[str],
        *,
        check: bool = True,
        environment: dict[str, str] | None = None,
        under: Sequence[str] = (),
    ) -> subprocess.CompletedProcess[str]:
        """Run the driver with these arguments, ``under`` a program that watches it."""
        command = [*under, str(driver), *arguments]
        environment = {**os.environ, **SANITIZED, **(environment or {})}
        if self.keystore is None:
            return self._run(command, environment, (), check)
        if not (self.data / KEYMAP_FILE).exists():
            entries = [MapEntry(oid, KeySource.RECORD) for oid in RECORDED]
            content = pack_map(entries, self.keystore.uuid, map_key(self.keystore))
            (self.data / KEYMAP_FILE).write_bytes(content)
        with self.keystore.hand_over() as keys:
            environment |= {**keys.environment, "LD_PRELOAD": preload()}
            return self._run(command, environment, (keys.fd,), check)

    def _run(
        self, command: list[str], environment: dict[str, str], fds: tuple[int, ...], check: bool
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.data,
            env=environment,
            pass_fds=fds,
            capture_output=True,
            text=True,
            check=check,
            timeout=550,  # pytest's own limit comes a little later
        )
