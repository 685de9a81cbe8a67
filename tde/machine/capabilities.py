"""The environment variable that can keep OpenSSL from the processor's AES instructions."""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass

# What strtoul reads with base 0; the rest of the text does not count, and no number is zero.
_NUMBER = re.compile(r"\s*(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)")


@dataclass(frozen=True)
class Capabilities:
    """How one architecture's OpenSSL is told what the processor can do.

    Attributes:
        variable: its name; the interposer publishes its value (c_ext/interpose/blocks/status.c).
        aes: the bit of the AES instructions, in its first word.
        can_clear: whether a value that begins with a tilde takes bits away. Elsewhere a value
            stands for all that the processor has.
        instructions: what people call the AES instructions.
        without_aes: the value that takes away these instructions, and leaves the vector registers.
        with_all: the value that takes away nothing, where there is one.
        wide_aes: the bits of what OpenSSL 3.5 wants for several blocks at once, in the second word.
    """

    variable: str
    aes: int
    can_clear: bool
    instructions: str
    without_aes: str
    with_all: str = ""
    wide_aes: int = 0

    def forbids_aes(self, value: str | None) -> bool:
        """Tell whether OpenSSL does without the AES instructions.

        Args:
            value: of the variable; ``None`` when it is not set.
        """
        if value is None:
            return False
        first, colon, _ = value.partition(":")
        if self.can_clear and first.startswith("~"):
            return bool(_number(first[1:]) & self.aes)
        if self.can_clear and colon and not first:
            return False  # The first word is left out, and so is as the processor says.
        return not _number(first) & self.aes

    def forbids_wide_aes(self, value: str | None) -> bool:
        """Tell whether OpenSSL does without VAES and AVX-512, which make 3.5 faster than 3.0.

        Args:
            value: of the variable; ``None`` when it is not set.
        """
        if value is None or self.wide_aes == 0:
            return False
        # A word that is left out counts as zero.
        second = value.split(":")[1] if ":" in value else "0"
        if second.startswith("~"):
            return bool(_number(second[1:]) & self.wide_aes)
        return bool(~_number(second) & self.wide_aes)


def _number(text: str) -> int:
    match = _NUMBER.match(text)
    if match is None:
        return 0
    digits = match[1]
    return int(digits, 8 if digits.startswith("0") and digits.isdigit() else 0)


# OPENSSL_ia32cap(3). A word that is left out counts as zero, and OpenSSL 3.5 has five.
_OTHER_WORDS = ":~0x0" * 4
X86 = Capabilities(
    "OPENSSL_ia32cap",
    aes=1 << 57,
    can_clear=True,
    instructions="AES-NI",
    without_aes=f"~0x200000200000000{_OTHER_WORDS}",
    with_all=f"~0x0{_OTHER_WORDS}",
    # AVX512F, -DQ, -BW and -VL, VAES and VPCLMULQDQ: it asks for all of them.
    wide_aes=1 << 16 | 1 << 17 | 1 << 30 | 1 << 31 | 1 << 41 | 1 << 42,
)
# OpenSSL documents it nowhere: crypto/armcap.c takes the number for its capabilities, of which
# crypto/arm_arch.h has the bits; 1 is Advanced SIMD.
ARM = Capabilities("OPENSSL_armcap", 1 << 2, False, "AES instructions", "1")


def capabilities_of(machine: str) -> Capabilities:
    """Return those of an architecture, as ``uname -m`` names it."""
    return ARM if machine == "aarch64" else X86


OWN = capabilities_of(platform.machine())
