"""Data checksums are turned on in the pg_control of each major version, whatever is installed."""

from __future__ import annotations

import struct

import pytest

from tde import _core
from tests.postgres.control_files import crc32c

SECTOR = 512
FRONT = 200  # Bytes in front of what is looked at; their number differs between versions.
INITIALLY = {
    1300: (),
    1700: (),
    1800: (),
    1905: (0,),
}  # data_checksum_version_init, behind float8ByVal.
SIGNEDNESS = {1300: b"", 1700: b"", 1800: b"\1", 1905: b"\1"}


def control(version: int, checksums: int, *, large_object_block: int = 2048) -> bytes:
    """Return a sector as pg_control.h of the version says, without what does not matter here."""
    front = struct.pack("=QIII", 4711, version, 202600000, 1).ljust(FRONT, b"\x55")
    members = struct.pack("=II", large_object_block, 1)
    members += b"".join(struct.pack("=I", value) for value in (*INITIALLY[version], checksums))
    members += SIGNEDNESS[version] + bytes(range(1, 33))
    content = front + members + bytes(-len(members) % 4)
    return (content + struct.pack("=I", crc32c(content))).ljust(SECTOR, b"\0")


@pytest.mark.parametrize("version", INITIALLY)
def test_checksums_of_each_layout(version):
    wanted = control(version, 1)
    assert _core.control_checksums(control(version, 0)) == wanted
    assert _core.control_checksums(wanted) == wanted


@pytest.mark.parametrize("version", INITIALLY)
def test_what_is_no_such_layout_is_refused(version):
    other = control(version, 0).replace(struct.pack("=I", version), struct.pack("=I", 1950), 1)
    for strange in (other, control(version, 2), control(version, 0, large_object_block=4096)):
        with pytest.raises(ValueError, match="control file"):
            _core.control_checksums(strange)
