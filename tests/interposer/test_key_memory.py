"""The memory of keys, as the checks of the machine know it."""

from __future__ import annotations

import mmap
import os
import subprocess
from pathlib import Path

from tde.machine.checks import KEY_RING_BYTES, KEY_RING_STRUCTURE
from tests.interposer.harness import build_program


def test_the_memory_of_keys_is_as_large_as_is_told(tmp_path: Path) -> None:
    """What `tde pg doctor` asks of the limit on locked memory."""
    source = tmp_path / "size.c"
    source.write_text(
        '#include <stdio.h>\n#include "interpose/keys/slot_memory.h"\n'
        'int main(void) { printf("%zu", sizeof(struct tde_keys_ring)); }\n'
    )
    program = build_program(tmp_path, str(source))
    size = int(subprocess.run([program], capture_output=True, text=True, check=True).stdout)
    assert size == KEY_RING_STRUCTURE
    assert 0 <= KEY_RING_BYTES - size < mmap.PAGESIZE == os.sysconf("SC_PAGE_SIZE")
