"""The model and the features that a result keeps, as each architecture tells them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tde_bench.measure.metadata import cpu

X86 = """processor	: 0
model name	: AMD EPYC 9B14
flags		: fpu sse2 aes pclmulqdq avx2 vaes
"""
ARM = """processor	: 0
BogoMIPS	: 50.00
Features	: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics uscat
CPU implementer	: 0x41
CPU architecture: 8
CPU variant	: 0x1
CPU part	: 0xd40
CPU revision	: 1
"""


@pytest.mark.parametrize(
    ("text", "model", "flags"),
    [
        (X86, "AMD EPYC 9B14", ["aes", "avx2", "pclmulqdq", "vaes"]),
        (ARM, "(implementer 0x41, part 0xd40)", ["aes", "asimd", "pmull"]),
        ("cpu : POWER9\n", "", []),
    ],
    ids=["x86-64", "64-bit ARM", "another"],
)
def test_model_and_features(tmp_path: Path, text: str, model: str, flags: list[str]) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(text)
    found = cpu(cpuinfo)
    assert found["model"].endswith(model)
    assert found["model"]
    assert (found["flags"], found["aes_instructions"]) == (flags, "aes" in flags)
