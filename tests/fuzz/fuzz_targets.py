"""The fuzz targets: what each is linked with, and how to build it with sanitizers."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
SOURCES = HERE.parents[1] / "c_ext"


@dataclass(frozen=True)
class Target:
    """One parser that reads bytes which others may have made.

    Attributes:
        name: of the folder of seeds, and of the source file after ``fuzz_``.
        sources: files of c_ext that are linked with it.
        max_length: the longest input that can mean something, in bytes.
    """

    name: str
    sources: tuple[str, ...]
    max_length: int

    @property
    def seeds(self) -> Path:
        return HERE / "corpus" / self.name


_CRYPTO = ("crypto/cipher.c", "crypto/library.c", "crypto/primitives.c", "crypto/xts.c")
TARGETS = (
    Target("identity", ("format/identity.c",), 256),
    Target("tar", ("format/identity.c", "format/tar.c"), 640),
    Target("keyrecord", (*_CRYPTO, "format/keyrecord.c"), 256),
    Target("keymap", (*_CRYPTO, "format/keyrecord.c", "format/keymap.c"), 1024),
    Target("handover", (*_CRYPTO, "format/keyrecord.c", "format/handover.c"), 4400),
)


def find_clang() -> str | None:
    """Return the newest clang on this machine; only it brings libFuzzer."""
    names = ["clang", *(f"clang-{version}" for version in range(30, 10, -1))]
    return next((found for name in names if (found := shutil.which(name))), None)


def build(target: Target, directory: Path, clang: str | None) -> Path:
    """Compile a target with ASan and UBSan: for libFuzzer with clang, else to replay files."""
    directory.mkdir(parents=True, exist_ok=True)
    program = directory / target.name
    sanitizers = "address,undefined" if clang is None else "fuzzer,address,undefined"
    command = [
        *(clang or "cc", "-g", "-O1", f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all"),
        *("-D_GNU_SOURCE", "-I", str(SOURCES), str(HERE / f"fuzz_{target.name}.c")),
        *([] if clang else [str(HERE / "replay.c")]),
        *(str(SOURCES / name) for name in target.sources),
        *("-lcrypto", "-lpthread", "-ldl", "-o", str(program)),
    ]
    subprocess.run(command, check=True)
    return program
